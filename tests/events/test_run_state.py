"""The state of a run for whoever comes late: what its events come to, and the position to go on from."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from carrel.api.events.v1 import event_pb2 as pb
from carrel.api.events.v1 import event_service_pb2
from carrel_events.run_state import RunFold
from tests.events.desk import Run, reader, texts, thought, thoughts
from tests.support.expect import refused
from tests.support.system import Person, System

Phase = event_service_pb2.RunPhase
STARTED = pb.Event(type="agent_started", agent="data", attempt=1, agent_started=pb.AgentStarted())
SUB_STARTED = pb.Event(type="agent_started", agent="sub", attempt=1, agent_started=pb.AgentStarted(parent_agent="data"))
CALLING = pb.Event(type="tool_executing", attempt=1, tool_executing=pb.ToolExecuting(tool_call_id="call-7", tool="sql"))
ASKED = pb.Event(
    type="approval_requested", attempt=1, approval_requested=pb.ApprovalRequested(approval_id="approval-7")
)


def end(type: str, **fields: Any) -> pb.Event:
    return pb.Event(type=type, agent="data", attempt=1, final=True, **fields)


CASES = {
    "queued": ([pb.Event(type="run_queued", attempt=1)], Phase.RUN_PHASE_QUEUED, [], []),
    "running": ([STARTED], Phase.RUN_PHASE_RUNNING, ["data"], []),
    "within a sub-agent": ([STARTED, SUB_STARTED], Phase.RUN_PHASE_RUNNING, ["data", "sub"], []),
    "calling a tool": ([STARTED, CALLING], Phase.RUN_PHASE_RUNNING, ["data"], ["call-7"]),
    "waiting": ([STARTED, ASKED], Phase.RUN_PHASE_WAITING, ["data"], []),
    "taken over by a second attempt": (
        [STARTED, CALLING, pb.Event(type="agent_thinking", attempt=2)],
        Phase.RUN_PHASE_RUNNING,
        [],
        [],
    ),
    "completed": (
        [STARTED, CALLING, end("agent_completed", agent_completed=pb.AgentCompleted(result_json="{}"))],
        Phase.RUN_PHASE_COMPLETED,
        [],
        [],
    ),
    "failed": ([STARTED, end("agent_failed", agent_failed=pb.AgentFailed())], Phase.RUN_PHASE_FAILED, [], []),
    "dead": ([STARTED, end("agent_died", agent_died=pb.AgentDied())], Phase.RUN_PHASE_DIED, [], []),
    "cancelled": ([STARTED, ASKED, end("run_cancelled")], Phase.RUN_PHASE_CANCELLED, [], []),
    "an event nobody knows": (
        [STARTED, pb.Event(type="of_tomorrow", attempt=1)],
        Phase.RUN_PHASE_RUNNING,
        ["data"],
        [],
    ),
}


@pytest.mark.parametrize(("events", "phase", "agents", "calls"), CASES.values(), ids=CASES)
def test_the_events_of_a_run_come_to_its_state(
    events: list[pb.Event], phase: int, agents: list[str], calls: list[str]
) -> None:
    fold = RunFold()
    fold.add(events)
    state = fold.state()
    assert state.phase == phase
    assert list(state.agents_at_work) == agents
    assert [call.tool_call_id for call in state.tools_at_work] == calls
    assert state.events == len(events)


def test_of_many_texts_the_newest_are_told() -> None:
    fold = RunFold()
    for number in range(60):
        fold.add([pb.Event(partial_result=pb.PartialResult(message_id=str(number % 55), text=f"text {number}"))])
    assert [text.text for text in fold.state().texts][-3:] == ["text 57", "text 58", "text 59"]
    assert len(fold.state().texts) == 50


async def test_a_late_reader_goes_on_where_the_state_ends(system: System, ada: Person) -> None:
    run, other = await Run.of(system, ada, "run-late"), await Run.of(system, ada, "run-beside")
    await run.append(*thoughts(3))
    await other.append(*thoughts(2))
    answer = await reader(system, ada).run_state("run-late")
    assert (answer.run.run_id, answer.run.events, answer.run.thinking.text) == ("run-late", 3, "thought 3")
    assert answer.position.offset == 5
    async with reader(system, ada).stream(after=answer.position, filter={"run_id": "run-late"}) as stream:
        await run.append(thought("new"))
        assert texts(await stream.until_events(1)) == ["new"]


async def test_a_run_of_another_user_is_not_found(system: System, ada: Person, eve: Person) -> None:
    await (await Run.of(system, ada, "run-of-ada")).append(thought())
    for run_id in ("run-of-ada", "run-of-nobody"):
        with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
            await reader(system, eve).run_state(run_id)


async def test_a_run_with_more_events_than_a_page_is_told_whole(system: System, ada: Person) -> None:
    run = await Run.of(system, ada, "run-long")
    for _ in range(3):
        await run.append(*thoughts(700))
    answer = await reader(system, ada).run_state("run-long")
    assert (answer.run.events, answer.position.offset) == (2100, 2100)
