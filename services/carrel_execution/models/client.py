"""One model behind an address that speaks the OpenAI chat API, by pydantic-ai. Importing this takes a second: see `calls`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx2
from openai import AsyncOpenAI
from pydantic import TypeAdapter, ValidationError
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior, UserError
from pydantic_ai.messages import (
    ModelMessagesTypeAdapter,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings as RequestSettings

from carrel.agent import JSON
from carrel_execution.models.calls import Failure
from carrel_execution.models.requests import Write
from carrel_execution.models.settings import ModelSettings

_DELTA_SECONDS = 0.05
"""Pieces of a text are told together for so long: fewer events, and no slower to read."""
_MOST_PAUSE_SECONDS = 120.0
_PASSING = frozenset((408, 409, 425, 429))

_PARAMETERS = TypeAdapter(ModelRequestParameters)
_RESPONSE = TypeAdapter(ModelResponse)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered; the response is in the JSON form of pydantic-ai."""

    response: dict[str, JSON]
    input_tokens: int
    output_tokens: int


class ModelClient:
    """Speaks to one model. It tries once: who calls it knows what else to do."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name = name
        # The client must have a key; a model that wants none does not look at it.
        key = settings.key(name).get_secret_value() or "none"
        self._client = AsyncOpenAI(
            base_url=settings.address, api_key=key, max_retries=0, timeout=settings.timeout_seconds
        )
        self._model = OpenAIChatModel(settings.model, provider=OpenAIProvider(openai_client=self._client))

    async def ask(self, request: Mapping[str, JSON], message_id: str, write: Write) -> Answer:
        """Sends the request and tells the text as it comes; raises Failure."""
        try:
            messages = ModelMessagesTypeAdapter.validate_python(request["messages"])
            parameters = _PARAMETERS.validate_python(request.get("parameters") or {})
            settings = RequestSettings(**(request.get("settings") or {}))
        except (ValidationError, KeyError, TypeError):
            message = f"The request to the model {self._name} is not of the form that models take."
            raise Failure("MODEL_REFUSED", message, passing=False) from None
        teller = _Teller(message_id, write)
        try:
            async with self._model.request_stream(messages, settings, parameters) as stream:
                async for event in stream:
                    await teller.tell(_text(event))
                await teller.flush()
            response = stream.get()
        except (ModelAPIError, UnexpectedModelBehavior, UserError, httpx2.HTTPError) as error:
            raise self._failure(error) from None
        usage = response.usage
        return Answer(_RESPONSE.dump_python(response, mode="json"), usage.input_tokens, usage.output_tokens)

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.close()

    def _failure(self, error: Exception) -> Failure:
        """What went wrong, in words of our own: those of the address may repeat the key, or what another user has asked."""
        if not isinstance(error, ModelHTTPError):
            passing = not isinstance(error, UserError)
            message = f"The model {self._name} could not be reached, or broke off ({type(error).__name__})."
            return Failure("MODEL_UNAVAILABLE" if passing else "MODEL_REFUSED", message, passing=passing)
        code = error.status_code
        if code in (401, 403):
            message = f"The model {self._name} does not accept the key that the operator has set for it."
            return Failure("MODEL_REFUSED", message, passing=False)
        if code in _PASSING or code >= 500:
            message = f"The model {self._name} is too busy or out of order ({code}); try again later."
            return Failure("MODEL_UNAVAILABLE", message, passing=True, pause_seconds=_retry_after(error.headers or {}))
        message = (
            f"The model {self._name} has refused the request ({code}): it may be too long, or ask for what it has not."
        )
        return Failure("MODEL_REFUSED", message, passing=False)


class _Teller:
    """Tells the pieces of a text, those of a short while together."""

    def __init__(self, message_id: str, write: Write) -> None:
        self._message_id = message_id
        self._write = write
        self._pieces: list[str] = []
        self._told = float("-inf")

    async def tell(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            if asyncio.get_running_loop().time() - self._told >= _DELTA_SECONDS:
                await self.flush()

    async def flush(self) -> None:
        """Tells what has not been told yet."""
        if self._pieces:
            delta, self._pieces = "".join(self._pieces), []
            self._told = asyncio.get_running_loop().time()
            await self._write(self._message_id, delta)


def _text(event: Any) -> str:
    """The piece of text in an event of the stream; "" when it is another kind of piece."""
    match event:
        case PartStartEvent(part=TextPart(content=text)):
            return text
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
    return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header, which may also be a date; None without one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _MOST_PAUSE_SECONDS)
