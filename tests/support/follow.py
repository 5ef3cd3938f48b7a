"""Follows a user's whole log, live, and keeps all that came."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from carrel import Client
from carrel.api.events.v1.event_pb2 import Event
from carrel.errors import CarrelClientError, Unavailable
from tests.support.system import Person, System

FIVE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
"""What every run of an agent with a tool shows, in this order of life."""


class Follower:
    """One user, connected to the gateway, with every event that came."""

    def __init__(self, person: Person, client: Client) -> None:
        self.person = person
        self.client = client
        self.events: list[Event] = []
        self._news = asyncio.Condition()
        self._broken: CarrelClientError | None = None

    async def follow(self) -> None:
        """Receives until it is cancelled, or its stream ends for good: then `until` says why."""
        try:
            await self._receive()
        except CarrelClientError as error:
            async with self._news:
                self._broken = error
                self._news.notify_all()

    async def _receive(self) -> None:
        while True:
            try:
                async with aclosing(self.client.subscribe()) as events:
                    async for event in events:
                        self.events.append(event)
                        async with self._news:
                            self._news.notify_all()
            except Unavailable:
                if self.events:  # one that was open is resumed by the client itself
                    raise

    async def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Waits until `done()` holds of the events so far."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: done() or self._broken is not None)
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds} s; {len(self.events)} events: {Counter(self.types())}"
            ) from None
        if not done():
            raise AssertionError(f"the stream ended after {len(self.events)} events") from self._broken

    async def until_final(self, *run_ids: str, seconds: float = 60.0) -> None:
        """Waits for the final event of each of these runs."""
        await self.until(lambda: set(run_ids) <= {event.run_id for event in self.events if event.final}, seconds)

    def of(self, run_id: str) -> list[Event]:
        """The events of one run, in their order."""
        return [event for event in self.events if event.run_id == run_id]

    def types(self, run_id: str = "") -> list[str]:
        """The types of the events, in their order; of one run, or of all."""
        return [event.type for event in self.events if run_id in ("", event.run_id)]

    def check(self) -> None:
        """What holds of every log: dense offsets, own events only, one final event per run, no event twice."""
        assert [event.cursor.offset for event in self.events] == list(range(1, len(self.events) + 1))
        assert len({event.cursor.epoch for event in self.events}) <= 1
        owners = {(event.tenant_id, event.user_id) for event in self.events}
        assert owners <= {(self.person.tenant_id, self.person.user_id)}, f"foreign events: {owners}"
        assert len({event.event_id for event in self.events}) == len(self.events)
        finals = Counter(event.run_id for event in self.events if event.final)
        assert set(finals.values()) <= {1}, finals

    def check_five(self, run_id: str) -> None:
        """The five critical events of a run came, in the order of life."""
        types = self.types(run_id)
        places = [types.index(name) for name in FIVE]
        assert places == sorted(places), types
        assert self.of(run_id)[-1].type == "agent_completed"


@asynccontextmanager
async def following(system: System, *people: Person) -> AsyncIterator[list[Follower]]:
    """Each of the people connected and following from the beginning."""
    async with AsyncExitStack() as stack:
        followers = []
        for person in people:
            client = await stack.enter_async_context(Client(system.addresses["gateway"], person.token))
            followers.append(Follower(person, client))
        tasks = [asyncio.create_task(follower.follow()) for follower in followers]
        try:
            yield followers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
