"""The bus: live copies and wake-ups over core NATS. It is never the truth: what it loses is read from the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from carrel_chassis.logs import get_logger

OnMessage = Callable[[str, bytes], Awaitable[None]]


class Bus:
    """A connection to NATS that comes back by itself. Without it everything goes on, later: by polls and by reading the log.

    Without `echo` a process does not hear what it publishes itself.
    """

    def __init__(self, url: str, *, echo: bool = True) -> None:
        self._url = url
        self._echo = echo
        self._client = Client()
        self._connecting: asyncio.Task[None] | None = None
        self._wanted: dict[int, tuple[str, str, OnMessage]] = {}
        self._active: dict[int, Any] = {}
        self._next = 0

    @property
    def connected(self) -> bool:
        """Whether messages flow now."""
        return self._client.is_connected

    async def start(self) -> None:
        """Begins to connect, and goes on trying; returns at once when NATS is there, after a second when it is not."""
        self._connecting = asyncio.create_task(self._connect())
        await asyncio.wait({self._connecting}, timeout=1.0)

    async def _connect(self) -> None:
        log = get_logger()

        async def on_error(error: Exception) -> None:
            log.warning("bus.error", error=str(error) or type(error).__name__)

        async def on_change() -> None:
            log.info("bus.connected" if self._client.is_connected else "bus.disconnected")

        async def on_return() -> None:
            await on_change()
            await self._subscribe_wanted()  # NATS knows the old ones again by itself, not those asked for meanwhile

        while True:
            try:
                await self._client.connect(
                    self._url,
                    connect_timeout=1,
                    reconnect_time_wait=1,
                    max_reconnect_attempts=-1,
                    allow_reconnect=True,
                    # Live copies that could not be sent are not worth keeping: their readers heal from the log.
                    pending_size=0,
                    no_echo=not self._echo,
                    error_cb=on_error,
                    reconnected_cb=on_return,
                    disconnected_cb=on_change,
                )
                break
            except (TimeoutError, OSError, NatsError):
                self._client = Client()
                await asyncio.sleep(0.2)
        await self._subscribe_wanted()

    async def _subscribe_wanted(self) -> None:
        for number in list(self._wanted):
            await self._subscribe_now(number)

    async def publish(self, subject: str, payload: bytes) -> bool:
        """Sends a copy if the connection stands; returns whether it was handed over."""
        if not self._client.is_connected:
            return False
        try:
            await self._client.publish(subject, payload)
        except (NatsError, OSError):
            return False
        return True

    async def subscribe(self, subject: str, on_message: OnMessage, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Calls `on_message(subject, payload)` for each message from now on, reconnects included; returns what ends it."""
        self._next += 1
        number = self._next
        self._wanted[number] = (subject, queue, on_message)
        if self._client.is_connected:
            await self._subscribe_now(number)

        async def unsubscribe() -> None:
            self._wanted.pop(number, None)
            subscription = self._active.pop(number, None)
            if subscription is not None and not self._client.is_closed:
                await subscription.unsubscribe()

        return unsubscribe

    async def _subscribe_now(self, number: int) -> None:
        if number in self._active or number not in self._wanted:
            return
        subject, queue, on_message = self._wanted[number]

        async def deliver(message: Any) -> None:
            await on_message(message.subject, message.data)

        self._active[number] = await self._client.subscribe(subject, queue=queue, cb=deliver)

    async def close(self) -> None:
        """Ends the connection; what was published before is sent first."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._client.is_connected:
            await self._client.drain()


@asynccontextmanager
async def open_bus(url: str) -> AsyncIterator[Bus | None]:
    """A bus for the length of the block; None where no address is given, and everything then comes by polls."""
    if not url:
        yield None
        return
    bus = Bus(url)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()
