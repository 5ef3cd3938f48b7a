"""Users who start runs and wait for their ends: the load of the benchmarks of runs, all of it through the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

from carrel import Client
from carrel.agent import JSON
from tests.support.system import System

HELLO: tuple[str, Mapping[str, JSON]] = ("echo", {"text": "hello"})
"""An agent with one tool."""


class Runner:
    """A user who starts runs and hears of them on one stream."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._began: dict[str, asyncio.Event] = {}
        self._ended: dict[str, asyncio.Event] = {}

    async def listen(self) -> None:
        """Until it is cancelled."""
        async with aclosing(self.client.subscribe()) as events:
            async for event in events:
                if event.type == "agent_started":
                    _of(self._began, event.run_id).set()
                elif event.final:
                    _of(self._ended, event.run_id).set()

    async def start(self, agent: str, input: Mapping[str, JSON]) -> str:
        """The id of a new run."""
        return (await self.client.start_run(agent, input)).run_id

    async def began(self, run_id: str) -> None:
        """Returns when the user is told that the run has begun."""
        await _of(self._began, run_id).wait()

    async def ended(self, run_id: str) -> None:
        """Returns when the user is told that the run is over, and forgets it."""
        await _of(self._ended, run_id).wait()
        del self._ended[run_id]
        self._began.pop(run_id, None)

    async def run(self, agent: str = HELLO[0], input: Mapping[str, JSON] = HELLO[1]) -> float:
        """Seconds from the call to the final event."""
        begin = time.perf_counter()
        run_id = await self.start(agent, input)
        async with asyncio.timeout(60):
            await self.ended(run_id)
        return time.perf_counter() - begin


def _of(events: dict[str, asyncio.Event], run_id: str) -> asyncio.Event:
    return events.setdefault(run_id, asyncio.Event())


@asynccontextmanager
async def runners(system: System, count: int) -> AsyncIterator[list[Runner]]:
    """So many users, each of a tenant of their own, with an open stream; each has had a run already."""
    people = [await system.person() for _ in range(count)]
    users = [Runner(Client(system.addresses["gateway"], person.token)) for person in people]
    listeners = [asyncio.create_task(user.listen()) for user in users]
    try:
        for user in users:
            await user.run()
        yield users
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        for user in users:
            await user.client.close()


async def loaded(users: list[Runner], seconds: float) -> tuple[int, float, list[float]]:
    """Runs in a closed loop, each user one at a time: how many, in how many seconds, and how long each took."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def loop(user: Runner) -> None:
        while time.perf_counter() < end:
            taken.append(await user.run())

    begin = time.perf_counter()
    await asyncio.gather(*map(loop, users))
    return len(taken), time.perf_counter() - begin, taken
