"""What a user sees and answers of what runs wait for, and the journals of runs: one method for each RPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from carrel.replay import Answered, WaitKind, WaitState
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_chassis.pages import Page, list_name
from carrel_execution import domain
from carrel_execution.attempt import events
from carrel_execution.journal.answers import checked_answer
from carrel_execution.journal.repository import Journals, Step, Wait
from carrel_execution.runs.repository import Runs


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person says to a call of a tool, and to which one."""

    approved: bool
    arguments_digest: str


class WaitOperations:
    """`on_ready` is told when a run may go on."""

    def __init__(
        self, sessions: UserSessions, *, clock: Callable[[], float], on_ready: Callable[[], Awaitable[None]]
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._on_ready = on_ready

    async def list_steps(
        self, user: UserContext, call_id: str, run_id: str, page_size: int, page_token: str
    ) -> tuple[list[Step], str]:
        """A page of the journal of a run, and the token of the next page, "" on the last; RUN_NOT_FOUND."""
        check_id(run_id, "run_id")
        page = Page.oldest_first(list_name("steps", run_id), page_size, page_token)
        async with self._sessions.open(user, call_id) as connection:
            steps, more = await Journals(connection, user).list_steps(run_id, page)
            if not steps and await Runs(connection, user).get(run_id) is None:
                raise domain.run_not_found(run_id)
        return steps, page.token_after(steps[-1].create_time, steps[-1].step_id) if more else ""

    async def list_waits(
        self,
        user: UserContext,
        call_id: str,
        run_id: str,
        states: Sequence[WaitState],
        page_size: int,
        page_token: str,
    ) -> tuple[list[Wait], str]:
        """A page of what the user's runs wait for, oldest first, and the token of the next page, "" on the last."""
        if run_id:
            check_id(run_id, "run_id")
        wanted = sorted(set(states)) or [WaitState.PENDING]
        page = Page.oldest_first(list_name("waits", run_id, *wanted), page_size, page_token)
        async with self._sessions.open(user, call_id) as connection:
            waits, more = await Journals(connection, user).list_waits(run_id, wanted, page)
        return waits, page.token_after(waits[-1].create_time, waits[-1].wait_id) if more else ""

    async def resolve_wait(self, user: UserContext, call_id: str, wait_id: str, answer: str | Decision | None) -> Wait:
        """Answers a wait: the run goes on, in the same commit. `answer` is a JSON text, or the decision on an approval."""
        if user.run_id:
            # A run that may answer would consent to its own calls.
            message = "The context belongs to a run; only a person may answer what a run waits for."
            raise CarrelError(Kind.DENIED, "RUN_CANNOT_RESOLVE", message, metadata={"run_id": user.run_id})
        check_id(wait_id, "wait_id")
        async with self._sessions.open(user, call_id) as connection:
            journals = Journals(connection, user)
            wait = await journals.get_wait(wait_id)
            if wait is None:
                raise _wait_not_found(wait_id)
            state, answer_json = _checked(wait, answer)
            event = events.answered(wait.run_id, wait.agent, self._clock(), _as_answered(wait, state))
            after = await journals.resolve_wait(wait_id, state, answer_json, event.SerializeToString())
            if (after.state, after.answer_json) != (state, answer_json):
                raise _wait_over(after)
        await self._on_ready()
        return after


def _checked(wait: Wait, answer: str | Decision | None) -> tuple[WaitState, str]:
    """What the answer makes of the wait; INVALID_ARGUMENT when it is not what was asked for."""
    if wait.kind is WaitKind.INPUT:
        if not isinstance(answer, str):
            raise invalid("answer_json", "The run waits for input; give answer_json.")
        return WaitState.RESOLVED, checked_answer(answer, wait.answer_schema_json)
    if not isinstance(answer, Decision):
        raise invalid("approval", "The run waits for an approval; give approval.")
    if answer.arguments_digest != wait.arguments_digest:
        message = "arguments_digest is not that of the call which is to be approved; look at the wait again."
        raise invalid("approval.arguments_digest", message)
    return (WaitState.RESOLVED if answer.approved else WaitState.DENIED), ""


def _as_answered(wait: Wait, state: WaitState) -> Answered:
    return Answered(
        wait_id=wait.wait_id,
        step_id=wait.step_id,
        kind=wait.kind,
        state=state,
        input_digest="",
        tool=wait.tool,
        arguments_digest=wait.arguments_digest,
        answer_json="",
        resolve_time=0.0,
        expire_time=0.0,
    )


def _wait_not_found(wait_id: str) -> CarrelError:
    return CarrelError(
        Kind.NOT_FOUND,
        "WAIT_NOT_FOUND",
        f"No run of yours waits for {wait_id}; list your waits to see which there are.",
        metadata={"wait_id": wait_id},
    )


_WHY_OVER = {
    WaitState.RESOLVED: "has another answer already",
    WaitState.DENIED: "has another answer already",
    WaitState.CANCELLED: "is over, because its run has ended",
}


def _wait_over(wait: Wait) -> CarrelError:
    return CarrelError(
        Kind.CONFLICT,
        "WAIT_OVER",
        f"{wait.wait_id} {_WHY_OVER.get(wait.state, 'has expired')}.",
        metadata={"wait_id": wait.wait_id, "state": str(wait.state)},
    )
