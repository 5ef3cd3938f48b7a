"""A user of the demo at work: uploads a trace, watches the whole event stream, has a question answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import uuid4

from carrel.client import Client, Event, Run
from carrel.errors import CarrelClientError
from carrel_cli.demo.evidence import Evidence
from carrel_cli.demo.trace_file import TraceFile

CORPUS = "trace"
"""The same name for both users, on purpose."""


@dataclass
class Visitor:
    """One user with a connection of their own."""

    tenant_id: str
    user_id: str
    style: str
    question: str
    trace: TraceFile
    client: Client
    seen: Callable[[Visitor, Event], None]
    """Called for each event as it comes."""
    events: list[Event] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def upload(self) -> None:
        """Stores the trace under the common name."""
        await self.client.upload_corpus(CORPUS, self.trace.content)

    async def watch(self) -> None:
        """Receives everything there is for this user, until cancelled."""
        async with aclosing(self.client.subscribe()) as stream:
            async for event in stream:
                self.events.append(event)
                self._arrived.set()
                self.seen(self, event)
                if event.final:
                    self._ended.set()

    async def start(self) -> Run:
        """Asks the supervisor."""
        return await self.client.start_run("supervisor", {"question": self.question, "corpus": CORPUS})

    async def until_ended(self) -> None:
        """Returns when a final event has come and the stream has delivered all that the log holds."""
        await self._ended.wait()
        kept = await self._count_log()
        while len(self.events) < kept:
            self._arrived.clear()
            await self._arrived.wait()

    async def evidence(self, run_id: str, other_run_id: str) -> Evidence:
        """All that this user can get to see, and the answers about the other's run."""
        return Evidence(
            tenant_id=self.tenant_id,
            user_id=self.user_id,
            trace=self.trace,
            run=await self.client.get_run(run_id),
            events=tuple(self.events),
            runs=[run async for run in self.client.list_runs()],
            tool_calls=[call async for call in self.client.list_tool_calls()],
            corpora=[corpus async for corpus in self.client.list_corpora()],
            answers_about_the_other={
                "get": await _answer(self.client.get_run(other_run_id)),
                "watch": await _answer(self._first_event(other_run_id)),
                "cancel": await _answer(self.client.cancel_run(other_run_id)),
                "get a run that never was": await _answer(self.client.get_run(f"run-{uuid4().hex}")),
            },
        )

    async def _count_log(self) -> int:
        count, after = 0, None
        while True:
            page = await self.client.list_events(after, page_size=1000)
            count += len(page.events)
            if not page.more:
                return count
            after = page.position

    async def _first_event(self, run_id: str) -> Event | None:
        async with aclosing(self.client.watch_run(run_id)) as stream:
            return await anext(stream, None)


async def _answer(call: Awaitable[object]) -> str:
    """The code and the reason; `OK` when there was an answer, which is what must not be."""
    try:
        await call
    except CarrelClientError as error:
        return f"{error.code.name} {error.reason}"
    return "OK"
