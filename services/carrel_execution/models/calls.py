"""Calls of language models: with retries, a fallback, a limit of time, what each took, and the text as it grows.

The library that speaks to them is loaded only where there is a model. Keys stay in here: what an agent, an event or the log is told of a
failure is said in words of our own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from carrel.agent import JSON, AgentError
from carrel_chassis.errors import invalid
from carrel_chassis.logs import get_logger
from carrel_execution.models.requests import Write
from carrel_execution.models.settings import ModelSettings, load_models

if TYPE_CHECKING:
    from carrel_execution.models.client import ModelClient

_FIRST_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 30.0


class Failure(Exception):
    """A try that came to nothing. `message` is for the user and holds nothing that the model's address said of a key."""

    def __init__(self, reason: str, message: str, *, passing: bool, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.passing = passing
        """Whether the same may go well a little later."""
        self.pause_seconds = pause_seconds
        """How long the model itself asks to be left alone."""


class Models:
    """The models of this process, by name."""

    def __init__(self, settings: Mapping[str, ModelSettings], clients: Mapping[str, ModelClient]) -> None:
        self.names = tuple(settings)
        self._settings = settings
        self._clients = clients
        meter = metrics.get_meter("carrel")
        self._tokens = meter.create_counter("gen_ai.client.token.usage", unit="{token}")
        self._seconds = meter.create_histogram("gen_ai.client.operation.duration", unit="s")

    async def call(
        self, name: str, request: Mapping[str, JSON], message_id: str, write: Write, seconds: float
    ) -> dict[str, JSON]:
        """The answer of the model, or of the one that it falls back to: see `RunPort.call_model`.

        It takes at most so many seconds. Raises AgentError MODEL_UNKNOWN, MODEL_REFUSED, MODEL_UNAVAILABLE.
        """
        if name not in self._settings:
            raise AgentError("MODEL_UNKNOWN", f"There is no model {name}.")
        ends = time.monotonic() + seconds
        ids = chain([message_id], (f"{message_id}.{number}" for number in count(2)))
        while True:
            try:
                return await self._patiently(name, request, ids, write, ends)
            except Failure as failure:
                fallback = self._settings[name].fallback
                if not failure.passing or not fallback or time.monotonic() >= ends:
                    raise AgentError(failure.reason, failure.message, retryable=failure.passing) from None
                name = fallback

    async def _patiently(
        self, name: str, request: Mapping[str, JSON], ids: Iterator[str], write: Write, ends: float
    ) -> dict[str, JSON]:
        """Asks one model as often as its settings say, and as there is time; raises Failure. Each try has the next of the ids."""
        attempts = self._settings[name].attempts
        for number in range(1, attempts):
            try:
                return await self._once(name, request, next(ids), write, ends)
            except Failure as failure:
                get_logger().warning("model.failed", model=name, reason=failure.reason, attempts_left=attempts - number)
                pause = _pause(failure, number)
                if not failure.passing or time.monotonic() + pause >= ends:
                    raise
            await asyncio.sleep(pause)
        return await self._once(name, request, next(ids), write, ends)

    async def _once(
        self, name: str, request: Mapping[str, JSON], message_id: str, write: Write, ends: float
    ) -> dict[str, JSON]:
        settings, begin = self._settings[name], time.monotonic()
        limit = min(settings.timeout_seconds, ends - begin)
        try:
            async with asyncio.timeout(limit):
                answer = await self._clients[name].ask(request, message_id, write)
        except TimeoutError:
            message = f"The model {name} did not answer within {limit:g} s."
            raise Failure("MODEL_UNAVAILABLE", message, passing=True) from None
        labels = {"gen_ai.request.model": name}
        self._seconds.record(time.monotonic() - begin, labels)
        for kind, tokens in (("input", answer.input_tokens), ("output", answer.output_tokens)):
            self._tokens.add(tokens, {**labels, "gen_ai.token.type": kind})
        return {
            "response": answer.response,
            "model": name,
            "message_id": message_id,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "cost_usd": settings.cost_usd(answer.input_tokens, answer.output_tokens),
        }


def _pause(failure: Failure, tries: int) -> float:
    """As long as the model asks for; without that, longer each time, and not the same for all who were refused at once."""
    if failure.pause_seconds is not None:
        return failure.pause_seconds
    return min(_FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), _MOST_PAUSE_SECONDS) * random.uniform(0.5, 1.0)


@asynccontextmanager
async def open_models(path: Path | None) -> AsyncIterator[Models]:
    """The models of the file; raises CarrelError for a file, a key or a library that is not there."""
    settings = load_models(path)
    clients: dict[str, Any] = {}
    if settings:
        # It takes more than a second, which the loop has not.
        library = await asyncio.to_thread(_library)
        clients = {name: library.ModelClient(name, each) for name, each in settings.items()}
    for name, each in settings.items():
        if each.cost_usd(0, 0) is None:
            get_logger().warning("model.has_no_price", model=name, advice="set input_usd and output_usd")
    try:
        yield Models(settings, clients)
    finally:
        for client in clients.values():
            await client.close()


def _library() -> Any:
    try:
        return import_module("carrel_execution.models.client")
    except ImportError as error:
        message = "There are models in models_file, and the library for them is not installed: install carrel[models]."
        raise invalid("models_file", message) from error
