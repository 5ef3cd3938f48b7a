"""Starting a run that has ended once more: what is kept of it, and what is not."""

from __future__ import annotations

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_execution.domain import Run
from carrel_execution.runs.operations import Operations
from carrel_execution.runs.start import StartRequest


async def repeat_run(
    runs: Operations, user: UserContext, call_id: str, grant: bytes, request_id: str, run_id: str
) -> Run:
    """A new run with the agent, input, thread, priority and timeout of one that is over; RUN_NOT_FOUND, RUN_NOT_OVER.

    Its times are not kept, which are over, nor who had to follow it; it waits for its turn in the thread. It has the rights of the
    caller, not those of then.
    """
    old = await runs.get_run(user, call_id, run_id)
    if not old.state.final:
        raise _not_over(run_id)
    request = StartRequest(
        request_id=request_id,
        agent=old.agent,
        input_json=old.input_json,
        thread_id=old.thread_id,
        priority=old.priority,
        timeout_seconds=old.timeout_seconds,
        repeats_run_id=run_id,
    )
    return await runs.start_run(user, call_id, grant, request)


def _not_over(run_id: str) -> CarrelError:
    return CarrelError(
        Kind.CONFLICT,
        "RUN_NOT_OVER",
        f"The run {run_id} is not over; cancel it first, or wait for its end.",
        metadata={"run_id": run_id},
    )
