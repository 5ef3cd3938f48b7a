"""How the client calls: deadlines, further attempts, pages, streams that go on after a break. It knows no method of the API."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import grpc

from carrel.api.events.v1.event_pb2 import Cursor, Event
from carrel.errors import CarrelClientError, DeadlineExceeded, LimitExceeded, Unavailable, client_error

T = TypeVar("T")

_ATTEMPTS = 5
_OPENING_ATTEMPTS = 8
"""For a stream that has never delivered anything: about 5 s. One that has is resumed for as long as its reader wants."""
_MOST_FAULTS = 5
"""So often in a row a stream ends with a fault and is opened again, without having come further: about 3 s."""
_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
"""Of a proxy whose server was killed, or of the server: what it stumbles over may be there again at the same place."""
_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 2.0

_OPTIONS = [
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    # A gateway that is replaced is back within a second; the defaults would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A line that died without a word is found out within a minute.
    ("grpc.keepalive_time_ms", 30_000),
]


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A channel to `host:port`; it connects when it is used, and again when the other side comes back."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


class Caller:
    """Makes calls for one credential, each with a deadline; what fails is a CarrelClientError."""

    def __init__(self, token: str, call_seconds: float) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._call_seconds = call_seconds

    async def once(self, method: Callable[..., Awaitable[T]], request: object, seconds: float | None = None) -> T:
        """One call that is not repeated: whether a lost one was done is not known."""
        timeout = self._call_seconds if seconds is None else seconds
        try:
            return await method(request, metadata=self.metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise client_error(error) from None

    async def repeat(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """A call that is safe to repeat: a few attempts while the gateway is away or a rate is reached, within the time of one call.

        A limit that is soon free again is waited for; of a longer wait the caller is told at once.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + self._call_seconds
        waits = delays()
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self.once(method, request, max(0.0, end - clock()))
            except (Unavailable, LimitExceeded) as error:
                # Not before the time that was told, and not all at that time.
                wait = max(next(waits), (error.retry_seconds or 0.0) * random.uniform(1.0, 1.5))
                if isinstance(error, LimitExceeded) and not _soon_free(error):
                    raise
                await asyncio.sleep(min(wait, max(0.0, end - clock())))
        return await self.once(method, request, max(0.0, end - clock()))

    async def pages(self, method: Callable[..., Awaitable[T]], request: Any) -> AsyncGenerator[T, None]:
        """The pages of a list, each fetched when it is needed."""
        while True:
            page: Any = await self.repeat(method, request)
            yield page
            request.page_token = page.next_page_token
            if not request.page_token:
                return


async def followed(
    opened: Callable[[Cursor | None], Any], position: Cursor | None, *, ends: bool
) -> AsyncGenerator[Event, None]:
    """The events of a stream that is opened again after the last position whenever it breaks.

    `opened(position)` begins the call. With `ends` the stream is over after a final event, or when the server says so.
    Raises Unavailable only when it could not be opened at the start, for some seconds, and a fault (INTERNAL, UNKNOWN) when it comes
    again and again at the same position.
    """
    waits = delays()
    patience = _Patience()
    while True:
        try:
            async with aclosing(_messages(opened(position))) as messages:
                async for message in messages:
                    waits = delays()  # the line works: the next break begins with a short wait again
                    patience.renew(further=bool(message.events) or message.position != position)
                    for event in message.events:
                        yield event
                        if ends and event.final:
                            return
                    if message.HasField("position"):
                        position = message.position
            if ends:
                return
        except CarrelClientError as error:
            if not patience.bears(error):
                raise
        await asyncio.sleep(next(waits))


class _Patience:
    """How often a stream that breaks is opened again."""

    def __init__(self) -> None:
        self._openings = float(_OPENING_ATTEMPTS)
        self._faults = _MOST_FAULTS

    def renew(self, *, further: bool) -> None:
        """A message has come; `further` when it holds something new."""
        self._openings = math.inf
        if further:
            self._faults = _MOST_FAULTS

    def bears(self, error: CarrelClientError) -> bool:
        """Whether the stream that has ended so is opened again."""
        if error.code in _FAULTS:
            self._faults -= 1
            return self._faults >= 0
        self._openings -= 1
        return _resumable(error) and self._openings > 0


async def _messages(call: Any) -> AsyncGenerator[Any, None]:
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise client_error(error) from None
    finally:
        call.cancel()  # a stream that is left and not cancelled keeps its memory


def _soon_free(error: LimitExceeded) -> bool:
    return error.retry_seconds is not None and error.retry_seconds <= _MAX_DELAY_SECONDS


def _resumable(error: CarrelClientError) -> bool:
    """Whether a stream that ended so goes on after its last position."""
    if isinstance(error, LimitExceeded):
        # A place that is taken is soon free: the line that broke may still hold it.
        return error.reason == "SLOW_READER" or _soon_free(error)
    return isinstance(error, Unavailable | DeadlineExceeded)


def delays() -> Iterator[float]:
    """How long to wait before each further attempt, in seconds; spread, so that many clients do not come back at once."""
    delay = _FIRST_DELAY_SECONDS
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, _MAX_DELAY_SECONDS)
