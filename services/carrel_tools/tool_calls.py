"""The operations on tools: who may use which, and each step of a run once. It owns the transactions around a call's effect."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_chassis.pages import Page, list_name
from carrel_tools import domain, repository
from carrel_tools.admission import Admission, Admitted, Asked, OnProgress
from carrel_tools.desk import Desks
from carrel_tools.domain import Begun, Ending, Outcome, Repeat, Step, ToolCall
from carrel_tools.in_flight import InFlight, Stop
from carrel_tools.limits import Slots
from carrel_tools.pace import Meter, Pace
from carrel_tools.policy import Effect
from carrel_tools.tool import Tool
from carrel_tools.tool_run import probe_tool, run_tool
from carrel_tools.unbroken import unbroken


@dataclass(frozen=True, slots=True)
class Executed:
    """A tool call that succeeded, now or earlier."""

    tool_call_id: str
    result_json: str
    replayed: bool


class ToolCallOperations:
    """Lists and executes tools. `holder` names this process in the ledger; `deadline_seconds` is the most that a tool may take."""

    def __init__(
        self,
        sessions: UserSessions,
        admission: Admission,
        desks: Desks,
        slots: Slots,
        pace: Pace,
        *,
        cpu_seconds: Meter,
        moved_bytes: Meter,
        in_flight: InFlight,
        holder: str,
        deadline_seconds: float,
    ) -> None:
        self._sessions = sessions
        self._admission = admission
        self._desks = desks
        self._slots = slots
        self._pace = pace
        self._cpu_seconds = cpu_seconds
        self._moved_bytes = moved_bytes
        self._in_flight = in_flight
        self._holder = holder
        self._deadline_seconds = deadline_seconds

    async def list_tools(self, user: UserContext) -> list[Tool]:
        """The tools that exist for the user."""
        return await (await self._admission.tool_system(user)).tools()

    async def get_tool(self, user: UserContext, name: str) -> Tool:
        """The tool as the user sees it; raises TOOL_NOT_FOUND."""
        system = await self._admission.tool_system(user)
        found = await system.find(name)
        if found is None or system.view(found.tool).effect is Effect.DENY:
            raise domain.tool_not_found(name)
        return found.tool

    async def execute(
        self, user: UserContext, call_id: str, seconds: float, asked: Asked, on_progress: OnProgress | None = None
    ) -> Executed:
        """Executes the step, or tells what it came to; `seconds` is what the caller leaves, `on_progress` hears how far the tool has come.
        Raises as the proto says."""
        call = replace(await self._admission.admit(user, call_id, asked), on_progress=on_progress)
        await self._pace.take(user)
        await self._cpu_seconds.check(user.owner)
        await self._moved_bytes.check(user.owner)
        self._moved_bytes.add(user.owner, len(asked.arguments_json))
        with self._slots.take(user.owner), self._in_flight.alone(user.owner, call.step) as stop:
            if call.step.needs_intent:
                return await self._with_intent(user, call_id, call, seconds, stop)
            return await self._without_intent(user, call_id, call, seconds, stop)

    async def _with_intent(
        self, user: UserContext, call_id: str, call: Admitted, seconds: float, stop: Stop
    ) -> Executed:
        begun = await self._begin(user, call_id, call.step)
        if begun.consent_used:
            raise await self._admission.consent_used(user, call_id, call)
        if not begun.ours:
            return Executed(begun.tool_call_id, domain.replay(begun, call.step), True)
        result_json = await self._carry_out(user, call_id, call, seconds, stop, probe_first=begun.taken_over)
        return Executed(begun.tool_call_id, result_json, False)

    async def _without_intent(
        self, user: UserContext, call_id: str, call: Admitted, seconds: float, stop: Stop
    ) -> Executed:
        """One transaction, after the tool has run. Should the ledger have the step by then, what it has is told."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        ending = await self._run(user, call_id, call, seconds, stop)
        known = await unbroken(self._record(user, call_id, call.step, ending, loop.time() - begin))
        if not known.ours:
            return Executed(known.tool_call_id, domain.replay(known, call.step), True)
        return Executed(known.tool_call_id, domain.result_of(ending, call.step), False)

    async def _begin(self, user: UserContext, call_id: str, step: Step) -> Begun:
        async with self._sessions.open(user, call_id) as session:
            begun = await repository.begin_call(session, user, step, self._holder)
            if begun.taken_over:  # the line keeps what was decided for the call that died
                await repository.record_decision(session, user, step, Outcome.REPEATED)
        return begun

    async def list_calls(
        self, user: UserContext, call_id: str, run_id: str, page_size: int, token: str
    ) -> tuple[list[ToolCall], str]:
        """A page of the ledger, newest first, and the token of the next; empty on the last."""
        if run_id:
            check_id(run_id, "run_id")
        page = Page.newest_first(list_name("tool_calls", run_id), page_size, token)
        async with self._sessions.open(user, call_id) as session:
            calls = await repository.list_calls(session, user, run_id, page)
        if len(calls) <= page.size:
            return calls, ""
        last = calls[page.size - 1]
        return calls[: page.size], page.token_after(last.create_time, last.tool_call_id)

    async def _carry_out(
        self, user: UserContext, call_id: str, call: Admitted, seconds: float, stop: Stop, *, probe_first: bool
    ) -> str:
        step = call.step
        try:
            ending = await self._run(user, call_id, call, seconds, stop, probe_first=probe_first)
        except asyncio.CancelledError:
            # Stopped half-way, because the caller left. What may be taken over keeps its intent: the run may go on elsewhere, and
            # the same step then comes again. What may not has an effect that nobody knows, and that is said at once.
            if step.repeat is Repeat.AT_MOST_ONCE:
                await unbroken(self._finish(user, call_id, step, Ending(Outcome.UNKNOWN)))
            raise
        if not await unbroken(self._finish(user, call_id, step, ending)):
            raise domain.stale_attempt(step)
        return domain.result_of(ending, step)

    async def _run(
        self,
        user: UserContext,
        call_id: str,
        call: Admitted,
        seconds: float,
        stop: Stop,
        *,
        probe_first: bool = False,
    ) -> Ending:
        """Sets up the desk and lets the tool work at it."""
        desk = await self._desks.set_up(user, call_id, call.tool, min(seconds, self._deadline_seconds))
        # Where the caller leaves less, its own deadline cancels this: a step must not fail for good because of it.
        limit = self._deadline_seconds if self._deadline_seconds < seconds else None
        desk.on_progress = call.on_progress
        try:
            ending = None
            if probe_first and call.step.repeat is Repeat.VERIFY:
                ending = await probe_tool(call.tool, call.arguments, desk, limit, stop)
            if ending is None:
                ending = await run_tool(call.tool, call.arguments, desk, limit, stop)
        finally:
            self._cpu_seconds.add(user.owner, desk.usage.cpu_seconds)
        self._moved_bytes.add(user.owner, len(ending.result_json or ""))
        return ending

    async def _record(self, user: UserContext, call_id: str, step: Step, ending: Ending, seconds: float) -> Begun:
        async with self._sessions.open(user, call_id) as session:
            return await repository.record_call(session, user, step, self._holder, ending, seconds)

    async def _finish(self, user: UserContext, call_id: str, step: Step, ending: Ending) -> bool:
        async with self._sessions.open(user, call_id) as session:
            return await repository.finish_call(session, user, step, self._holder, ending)
