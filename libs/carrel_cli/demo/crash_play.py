"""The crash demo from start to end: a worker is killed between the effect of a tool and its answer, and the run goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from carrel.client import Client, Event
from carrel_cli.demo.checks import Verdict
from carrel_cli.demo.crash_checks import CrashEvidence, verdicts
from carrel_cli.demo.crash_parts import BOOK, MODULE, payments
from carrel_cli.demo.play import show_verdicts
from carrel_cli.demo.stage import Stage
from carrel_cli.documents import document, event_document
from carrel_cli.errors import CommandError
from carrel_cli.event_lines import event_parts

if TYPE_CHECKING:
    from carrel_cli.output import Output

_PAYMENTS, _KILL_AFTER = 5, 3
_RUN_SECONDS = 60.0


def crash_stage() -> Stage:
    """A system with the demo's agent and tool, which notices soon that a worker is gone."""
    modules = {"CARREL_AGENT_MODULES": MODULE, "CARREL_TOOL_MODULES": MODULE, "CARREL_LEASE_SECONDS": "2"}
    # A process that is killed clears nothing away: what it leaves in TMPDIR goes with the folder.
    return Stage(lambda folder: {**modules, BOOK: str(folder / "payments"), "TMPDIR": str(folder)})


@dataclass
class CrashPlay:
    """One performance; `seconds` holds how long its parts took."""

    out: Output
    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _payments: list[str] = field(default_factory=list)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def perform(self) -> None:
        """All of it but the end of the stage."""
        from carrel_cli.access import local_token

        self.out.note("Starting PostgreSQL, NATS and five services in a temporary folder …", style="bold")
        with self.timed("start"), self.out.waiting("Starting"):
            await self.stage.stack.start()
            self.stage.remember()
            await self.stage.stack.ready()
        token = local_token(self.stage.folder, "acme", "ada")
        async with Client(self.stage.stack.addresses["gateway"], token) as client:
            watching = asyncio.create_task(self._watch(client))
            try:
                self.verdicts = list(verdicts(await self._crash(client)))
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        show_verdicts(self.out, self.verdicts)

    def told(self) -> dict[str, object]:
        """What there is to say of this performance, for programs."""
        return {"payments": [*self._payments], "events": len(self._events)}

    async def _crash(self, client: Client) -> CrashEvidence:
        stack, book = self.stage.stack, self.stage.folder / "payments"
        run = await client.start_run("demo_payer", {"payments": _PAYMENTS})
        await _until(lambda: len(payments(book)) >= _KILL_AFTER, "The payments were not made")
        killed, at_kill = stack.pids()["execution"], len(payments(book))
        stack.kill("execution")
        self.out.note(
            f"Killed: process {killed}, which worked on the run. Payment {at_kill} is made, and nobody was told yet."
        )
        with self.timed("recovery"):
            await asyncio.wait_for(self._ended.wait(), _RUN_SECONDS)
        await stack.ready()
        self.stage.remember()
        self._payments = payments(book)
        ended = await client.get_run(run.run_id)
        self.out.document({"run": document(ended)})
        return CrashEvidence(
            run=ended,
            events=self._events,
            tool_calls=[call async for call in client.list_tool_calls()],
            expected=_PAYMENTS,
            payments=self._payments,
            payments_at_kill=at_kill,
            killed=killed,
            successor=stack.pids().get("execution"),
        )

    async def _watch(self, client: Client) -> None:
        async with aclosing(client.subscribe()) as stream:
            async for event in stream:
                self._events.append(event)
                self.out.document({"event": event_document(event)})
                self.out.parts((f"{event.cursor.offset:>3}  ", "dim"), *event_parts(event))
                if event.final:
                    self._ended.set()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Notes how long the block took."""
        began = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - began


async def _until(there: Callable[[], bool], otherwise: str) -> None:
    """Looks until it is so; the file of another process sends no word."""
    deadline = time.monotonic() + _RUN_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise CommandError("TIMEOUT", f"{otherwise} within {_RUN_SECONDS:.0f} s.")
        await asyncio.sleep(0.02)
