"""The demo from start to end: who does what when. It prints through the program it is given and judges nothing itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from carrel.client import Client, Event
from carrel_cli.demo.checks import COMPARED, Verdict, verdicts
from carrel_cli.demo.evidence import Evidence
from carrel_cli.demo.stage import Stage
from carrel_cli.demo.trace_file import TraceFile
from carrel_cli.demo.visitor import Visitor
from carrel_cli.documents import document, event_document
from carrel_cli.errors import CommandError
from carrel_cli.event_lines import event_parts

if TYPE_CHECKING:
    from carrel_cli.output import Output

_RUN_SECONDS = 120.0
_QUESTIONS = ("Where does the money go, and what would save some?", "Which load must we be ready for?")


@dataclass
class Play:
    """One performance; `seconds` holds how long its parts took."""

    out: Output
    stage: Stage
    traces: tuple[TraceFile, TraceFile]
    seconds: dict[str, float] = field(default_factory=dict)
    users: tuple[Evidence, ...] = ()
    verdicts: list[Verdict] = field(default_factory=list)

    async def perform(self) -> None:
        """All of it but the end of the stage."""
        await self._start()
        async with AsyncExitStack() as open_things:
            ada = await self._visitor(open_things, "acme", "ada", "cyan", 0)
            ben = await self._visitor(open_things, "globex", "ben", "magenta", 1)
            of_ada, of_ben = self.users = await self._work(ada, ben)
            self._show_report(ada, of_ada)
            self._show_report(ben, of_ben)
            with self.timed("checks"):
                self.verdicts = verdicts(of_ada, of_ben, await self.stage.blocked())
        show_verdicts(self.out, self.verdicts)

    def told(self) -> dict[str, object]:
        """What there is to say of this performance, for programs."""
        return {
            "users": [{"tenant": one.tenant_id, "user": one.user_id, "facts": dict(one.facts)} for one in self.users]
        }

    async def _start(self) -> None:
        out, stack = self.out, self.stage.stack
        out.note("Starting PostgreSQL, NATS and five services in a temporary folder …", style="bold")
        with self.timed("start"), out.waiting("Starting"):
            await stack.start()
            self.stage.remember()
            await stack.ready()
        out.note(
            f"They serve, after {self.seconds['start']:.1f} s; clients meet the gateway at {stack.addresses['gateway']}."
        )

    async def _visitor(self, open_things: AsyncExitStack, tenant: str, user: str, style: str, place: int) -> Visitor:
        from carrel_cli.access import local_token

        token = local_token(self.stage.folder, tenant, user)
        client = await open_things.enter_async_context(Client(self.stage.stack.addresses["gateway"], token))
        return Visitor(tenant, user, style, _QUESTIONS[place], self.traces[place], client, self._show_event)

    async def _work(self, *visitors: Visitor) -> tuple[Evidence, ...]:
        """Upload, watch, run: all users at the same time."""
        with self.timed("uploads"):
            await asyncio.gather(*(visitor.upload() for visitor in visitors))
        for visitor in visitors:
            words = f"{visitor.trace.name} ({visitor.trace.requests:,} requests) as the corpus “trace”"
            self._line(visitor, ("uploaded " + words, ""))
        watching = [asyncio.create_task(visitor.watch()) for visitor in visitors]
        try:
            with self.timed("runs"):
                runs = await asyncio.gather(*(visitor.start() for visitor in visitors))
                await self._until_ended(visitors, watching)
            ids = [run.run_id for run in runs]
            with self.timed("look-ups"):
                asked = zip(visitors, ids, reversed(ids), strict=True)
                return tuple(await asyncio.gather(*(visitor.evidence(own, other) for visitor, own, other in asked)))
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _until_ended(self, visitors: tuple[Visitor, ...], watching: list[asyncio.Task[None]]) -> None:
        """A stream that breaks for good ends the wait as well, with its error."""

        async def all_ended() -> None:
            await asyncio.gather(*(visitor.until_ended() for visitor in visitors))

        ended = asyncio.create_task(all_ended())
        try:
            done, _ = await asyncio.wait((ended, *watching), timeout=_RUN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for first in done:
                first.result()
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        if not done:
            raise CommandError("TIMEOUT", f"The runs did not end within {_RUN_SECONDS:.0f} s.")

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Notes how long the block took."""
        began = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - began

    def _line(self, visitor: Visitor, *parts: tuple[str, str]) -> None:
        self.out.parts((f"{visitor.user_id} │ ", f"bold {visitor.style}"), *parts)

    def _show_event(self, visitor: Visitor, event: Event) -> None:
        self.out.document({"user": visitor.user_id, "event": event_document(event)})
        self._line(visitor, (f"{event.cursor.offset:>3}  ", "dim"), *event_parts(event))

    def _show_report(self, visitor: Visitor, evidence: Evidence) -> None:
        self.out.document({"user": visitor.user_id, "run": document(evidence.run)})
        self.out.heading(f"What {visitor.user_id} of {visitor.tenant_id} was told", visitor.style)
        self.out.markdown(str(evidence.report.get("markdown", "There is no report.")))
        for name in COMPARED:
            value = evidence.facts.get(name)
            self._line(visitor, (f"{name:<14} {value:>15,}" if isinstance(value, int) else f"{name:<14} none", "bold"))


def show_verdicts(out: Output, verdicts: Sequence[Verdict]) -> None:
    """The checks, each with the figures it rests on."""
    out.heading("What was checked, from what came over the wire")
    words = {True: ("ok         ", "green"), False: ("FAILED     ", "bold red"), None: ("not checked", "yellow")}
    for verdict in verdicts:
        out.parts(words[verdict.passed], (f" {verdict.check}", ""))
        out.parts((f"            {verdict.figures}", "dim"), whole=True)
