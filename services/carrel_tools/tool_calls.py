"""The operations on tools: who may use which, and each step of a run once. It owns the transactions around a call's effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_tools import domain, repository
from carrel_tools.desk import Desks
from carrel_tools.domain import Ending, Outcome, Step, ToolCall
from carrel_tools.limits import Pace, Slots
from carrel_tools.tool import JSON, Tool
from carrel_tools.tool_run import run_tool
from carrel_tools.tool_system import ToolClasses, ToolSystem
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
        classes: ToolClasses,
        desks: Desks,
        slots: Slots,
        *,
        holder: str,
        deadline_seconds: float,
    ) -> None:
        self._sessions = sessions
        self._classes = classes
        self._desks = desks
        self._slots = slots
        self._pace = Pace("tool_calls_per_minute", time.monotonic)
        self._holder = holder
        self._deadline_seconds = deadline_seconds
        self._running: dict[tuple[str, ...], int] = {}
        """The steps that this process executes now, with the attempt that each is executed for."""

    def list_tools(self, user: UserContext) -> list[Tool]:
        """The tools that exist for the user."""
        return ToolSystem(user, self._classes).tools()

    async def execute(
        self, user: UserContext, call_id: str, seconds: float, step_id: str, name: str, arguments_json: str
    ) -> Executed:
        """Executes the step, or tells what it came to; `seconds` is what the caller leaves. Raises as the proto says."""
        domain.check_step_id(step_id)
        tool = ToolSystem(user, self._classes).find(name)
        if tool is None:
            await self._deny(user, call_id, step_id, name)
        arguments = domain.read_arguments(arguments_json)
        self._classes.check_arguments(tool, arguments)
        step = Step(user.run_id, step_id, user.attempt, tool.name, domain.sha256_of(arguments), tool.idempotent)
        self._pace.take(user.owner, user.limits.tool_calls_per_minute)
        self._pace.take(user.tenant_id, user.tenant_limits.tool_calls_per_minute)
        with self._slots.take(user.owner), self._alone(user, step):
            async with self._sessions.open(user, call_id) as session:
                begun = await repository.begin_call(session, user, step, self._holder)
            if not begun.ours:
                return Executed(begun.tool_call_id, domain.replay(begun, step), True)
            result_json = await self._carry_out(user, call_id, step, tool, arguments, seconds)
            return Executed(begun.tool_call_id, result_json, False)

    async def list_calls(
        self, user: UserContext, call_id: str, run_id: str, page_size: int, token: str
    ) -> tuple[list[ToolCall], str]:
        """A page of the ledger, newest first, and the token of the next; empty on the last."""
        if run_id:
            check_id(run_id, "run_id")
        size = domain.page_size_of(page_size)
        before = domain.read_call_position(token, run_id) if token else domain.NEWEST
        async with self._sessions.open(user, call_id) as session:
            calls = await repository.list_calls(session, user, run_id, before, size + 1)
        return calls[:size], domain.call_position(calls[size - 1], run_id) if len(calls) > size else ""

    async def _deny(self, user: UserContext, call_id: str, step_id: str, name: str) -> NoReturn:
        """Refuses a tool. Hidden and absent ones leave the same line and take the same time; only the line's rule tells which."""
        error = domain.tool_not_found(name)
        if domain.is_tool_name(name):
            rule = "SCOPE_MISSING" if self._classes.get(name) else "TOOL_UNKNOWN"
            step = Step(user.run_id, step_id, user.attempt, name, "", False)
            async with self._sessions.open(user, call_id) as session:
                version = self._classes.policy_version
                await repository.deny_call(session, user, step, error.message, rule, version)
        raise error

    @contextmanager
    def _alone(self, user: UserContext, step: Step) -> Iterator[None]:
        """Keeps a step from running twice here. A later attempt may overtake an earlier one if running twice does no harm."""
        key = (*user.owner, step.run_id, step.step_id)
        running = self._running.get(key)
        if running is not None and running > step.attempt:
            raise domain.stale_attempt(step)
        if running is not None and (running == step.attempt or not step.idempotent):
            raise domain.still_running(step)
        self._running[key] = step.attempt
        try:
            yield
        finally:
            if self._running.get(key) == step.attempt:
                del self._running[key]

    async def _carry_out(
        self, user: UserContext, call_id: str, step: Step, tool: Tool, arguments: dict[str, JSON], seconds: float
    ) -> str:
        try:
            desk = await self._desks.set_up(user, call_id, tool, min(seconds, self._deadline_seconds))
            # Where the caller leaves less, its own deadline cancels this: a step must not fail for good because of it.
            limit = self._deadline_seconds if self._deadline_seconds < seconds else None
            ending = await run_tool(tool, arguments, desk, limit)
        except asyncio.CancelledError:
            # Stopped half-way, because the caller left. What may run twice keeps its intent: the run may go on elsewhere, and the
            # same step then runs again. What may not has an effect that nobody knows, and that is said at once.
            if not step.idempotent:
                await unbroken(self._finish(user, call_id, step, Ending(Outcome.UNKNOWN)))
            raise
        if not await unbroken(self._finish(user, call_id, step, ending)):
            raise domain.stale_attempt(step)
        return domain.result_of(ending, step)

    async def _finish(self, user: UserContext, call_id: str, step: Step, ending: Ending) -> bool:
        async with self._sessions.open(user, call_id) as session:
            return await repository.finish_call(session, user, step, self._holder, ending)
