"""`python -m carrel_events.canary`: a user who does nothing but check, all the time, that what they start is what they hear of.

Everything that users go through is on its way: credential, run, agent, tool, log, bus, stream. It is a client like any other, with an
API key of a user of its own; what it finds is on its metrics page, to alert on.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from pathlib import Path

from opentelemetry import metrics
from pydantic import Field, SecretStr

from carrel import CarrelClientError, Client
from carrel.api.events.v1.event_pb2 import Event
from carrel_chassis.logs import get_logger
from carrel_chassis.process import run_service
from carrel_chassis.settings import ServiceSettings

FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
"""What every run of an agent with a tool shows, in this order."""


class CanarySettings(ServiceSettings):
    """The settings of the canary; each from `CARREL_<FIELD>`. It serves nothing: `LISTEN` and the keys are not asked for."""

    listen: str = ""
    service_key_file: Path = Path()
    service_trust_file: Path = Path()
    gateway_address: str
    canary_api_key: SecretStr
    """Of a user who has nothing else to do."""
    canary_agent: str = "echo"
    canary_interval_seconds: float = Field(default=10.0, gt=0)
    canary_timeout_seconds: float = Field(default=30.0, gt=0)


class Canary:
    """Starts a run, follows it on the stream of all events, and compares."""

    def __init__(self, client: Client, settings: CanarySettings) -> None:
        self._client = client
        self._settings = settings
        self._last: Event | None = None
        meter = metrics.get_meter("carrel")
        self._seconds = meter.create_histogram(
            "carrel.canary.duration", unit="s", description="From start to last event."
        )
        self._failures = meter.create_counter(
            "carrel.canary.failures", description="Checks that failed, by what was wrong."
        )

    async def run(self) -> None:
        """For ever."""
        while True:
            wrong = await self.check()
            if wrong:
                self._failures.add(1, {"wrong": wrong})
                get_logger().error("canary.failed", wrong=wrong)
            await asyncio.sleep(self._settings.canary_interval_seconds)

    async def check(self) -> str:
        """One run; returns what was wrong with it, or nothing."""
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.canary_timeout_seconds):
                wrong = await self._follow_one()
        except TimeoutError:
            return "late"
        except CarrelClientError as error:
            return error.reason or error.code.name
        if not wrong:
            self._seconds.record(time.perf_counter() - begin)
        return wrong

    async def _follow_one(self) -> str:
        run = await self._client.start_run(self._settings.canary_agent, {"text": "canary"})
        types: list[str] = []
        after = self._last.cursor if self._last is not None else None
        async with aclosing(self._client.subscribe(after)) as events:
            async for event in events:
                if not event.cursor.offset:
                    continue  # a delta: in no log
                if self._last is not None and event.cursor.offset != self._last.cursor.offset + 1:
                    return "gap" if event.cursor.offset > self._last.cursor.offset else "order"
                self._last = event
                if event.run_id == run.run_id:
                    types.append(event.type)
                    if event.final:
                        break
        return "" if [name for name in types if name in FIVE] == list(FIVE) else "events"


async def watch(settings: CanarySettings, stop: asyncio.Event) -> None:
    """Checks until `stop` is set."""
    async with Client(settings.gateway_address, settings.canary_api_key.get_secret_value()) as client:
        task = asyncio.create_task(Canary(client, settings).run())
        await stop.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    run_service("canary", CanarySettings, watch)
