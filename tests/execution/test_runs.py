"""Runs from outside: every RPC, and what the user is told, through real services."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from carrel.api.events.v1 import event_pb2, event_service_pb2
from carrel.api.events.v1 import event_service_pb2_grpc as event_rpc
from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.ids import new_id
from tests.support.expect import eventually, refused
from tests.support.system import Person, System

SUCCEEDED, FAILED, CANCELLED, DEAD = (
    run_pb2.RUN_STATE_SUCCEEDED,
    run_pb2.RUN_STATE_FAILED,
    run_pb2.RUN_STATE_CANCELLED,
    run_pb2.RUN_STATE_DEAD,
)


class Runs:
    """The runs of one person, as a client sees them."""

    def __init__(self, system: System, person: Person) -> None:
        self._stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
        self._events: event_rpc.EventServiceAsyncStub = event_rpc.EventServiceStub(system.peer("event-stream").channel)
        self._call: dict[str, Any] = {"metadata": person.metadata, "timeout": 20.0}

    async def start(self, agent: str, input: Any = None, *, request_id: str = "", **wishes: Any) -> run_pb2.Run:
        text = input if isinstance(input, str) else json.dumps(input or {})
        request_id = request_id or new_id("request")
        request = pb.StartRunRequest(request_id=request_id, agent=agent, input_json=text, **wishes)
        return (await self._stub.StartRun(request, **self._call)).run

    async def get(self, run_id: str) -> run_pb2.Run:
        return (await self._stub.GetRun(pb.GetRunRequest(run_id=run_id), **self._call)).run

    async def cancel(self, run_id: str, reason: str = "") -> run_pb2.Run:
        return (await self._stub.CancelRun(pb.CancelRunRequest(run_id=run_id, reason=reason), **self._call)).run

    async def list(self, **wanted: Any) -> pb.ListRunsResponse:
        return await self._stub.ListRuns(pb.ListRunsRequest(**wanted), **self._call)

    async def agents(self) -> pb.ListAgentsResponse:
        return await self._stub.ListAgents(pb.ListAgentsRequest(), **self._call)

    async def events(self, run_id: str) -> list[event_pb2.Event]:
        """All events of the run so far."""
        request = event_service_pb2.ListEventsRequest(filter=event_pb2.EventFilter(run_id=run_id), page_size=1000)
        return list((await self._events.ListEvents(request, **self._call)).events)

    async def story(self, run_id: str, *, seconds: float = 20.0) -> list[event_pb2.Event]:
        """All events of the run, when its final one is there; asserts that it is the last and the only final one."""

        async def look() -> list[event_pb2.Event]:
            events = await self.events(run_id)
            return events if any(event.final for event in events) else []

        events = await eventually(look, seconds=seconds)
        assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
        assert len({event.event_id for event in events}) == len(events)
        return events

    async def until(self, run_id: str, state: int) -> run_pb2.Run:
        """The run, when it is in this state."""

        async def look() -> run_pb2.Run | None:
            run = await self.get(run_id)
            return run if run.state == state else None

        return await eventually(look)


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


@pytest.fixture
def eves(system: System, eve: Person) -> Runs:
    return Runs(system, eve)


def types(events: list[event_pb2.Event]) -> list[str]:
    return [event.type for event in events]


async def test_a_run_tells_its_story_in_order_and_ends_once(runs: Runs) -> None:
    run = await runs.start("counting", {"calls": 2})
    events = await runs.story(run.run_id)
    step = ["progress_update", "tool_executing", "tool_completed"]
    assert types(events) == ["run_queued", "agent_started", "agent_thinking", *step, *step, "agent_completed"]
    ended = await runs.get(run.run_id)
    assert (ended.state, ended.attempt, json.loads(ended.result_json)) == (SUCCEEDED, 1, {"numbers": [1, 2]})
    assert events[-1].agent_completed.result_json == ended.result_json
    assert ended.create_time.ToDatetime() <= ended.start_time.ToDatetime() <= ended.finish_time.ToDatetime()
    assert {(event.agent, event.run_id, event.thread_id) for event in events} == {
        ("counting", run.run_id, run.thread_id)
    }
    assert events[4].tool_executing.tool_call_id == events[5].tool_completed.tool_call_id


async def test_an_agent_runs_others_within_its_run(runs: Runs) -> None:
    run = await runs.start("nested", {"depth": 1})
    events = await runs.story(run.run_id)
    assert types(events).count("agent_started") == types(events).count("agent_completed") == 4
    begun = [(event.agent, event.agent_started.parent_agent) for event in events if event.type == "agent_started"]
    assert begun == [("nested", ""), ("nested", "nested"), ("counting", "nested"), ("counting", "nested")]
    result = json.loads((await runs.get(run.run_id)).result_json)
    assert result == {"inner": {"leaves": [{"numbers": [1, 2]}, {"numbers": [1, 2]}]}}


async def test_the_same_request_starts_one_run(runs: Runs, eves: Runs) -> None:
    both = await asyncio.gather(*(runs.start("counting", request_id="request-again") for _ in range(2)))
    assert both[0].run_id == both[1].run_id
    with refused(grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED"):
        await runs.start("counting", {"calls": 1}, request_id="request-again")
    assert (await eves.start("failing", request_id="request-again")).run_id != both[0].run_id


@pytest.mark.parametrize(
    ("wanted", "code", "reason"),
    [
        ({"agent": "nobody"}, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        ({"agent": ""}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"agent": "echo", "input": "[1]"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"agent": "echo", "request_id": "registry"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID"),
        ({"agent": "echo", "thread_id": "a b"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID"),
    ],
)
async def test_a_wrong_start_is_refused_and_says_what_is_wrong(
    runs: Runs, wanted: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    with refused(code, reason) as refusal:
        await runs.start(**wanted)
    if reason == "AGENT_NOT_FOUND":
        assert "counting" in refusal.error.message
    assert not (await runs.list()).runs


async def test_another_user_does_not_see_the_run_and_cannot_stop_it(runs: Runs, eves: Runs) -> None:
    run = await runs.start("sleeper", {"seconds": 0.5}, thread_id="thread-shared")
    for attempt in (eves.get(run.run_id), eves.cancel(run.run_id)):
        with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND") as foreign:
            await attempt
        with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND") as missing:
            await eves.get("run-that-never-was")
        assert foreign.error.message.replace(run.run_id, "run-that-never-was") == missing.error.message
    assert not (await eves.list(thread_id="thread-shared")).runs
    assert await eves.events(run.run_id) == []
    await runs.story(run.run_id)
    assert (await runs.get(run.run_id)).state == SUCCEEDED


async def test_runs_are_listed_by_page_newest_first_without_results(runs: Runs) -> None:
    started = [await runs.start("failing", thread_id=f"thread-{number % 2 + 7}") for number in range(4)]
    for run in started:
        await runs.until(run.run_id, FAILED)
    first = await runs.list(page_size=3)
    second = await runs.list(page_size=3, page_token=first.next_page_token)
    ids = [run.run_id for run in started]
    assert [run.run_id for run in (*first.runs, *second.runs)] == ids[::-1]
    assert not second.next_page_token and not any(run.result_json for run in first.runs)
    assert [run.run_id for run in (await runs.list(thread_id="thread-8")).runs] == [ids[3], ids[1]]
    assert not (await runs.list(states=[SUCCEEDED])).runs
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await runs.list(page_token=first.next_page_token, thread_id="thread-8")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await runs.list(states=[run_pb2.RUN_STATE_UNSPECIFIED])


async def test_agents_are_listed_by_name(runs: Runs) -> None:
    names = [agent.name for agent in (await runs.agents()).agents]
    assert names == sorted(names) and {"echo", "supervisor", "sleeper"} <= set(names)


async def test_a_running_run_is_cancelled_and_says_why(runs: Runs) -> None:
    run = await runs.start("sleeper", {"seconds": 60})
    await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)
    assert (await runs.cancel(run.run_id, "enough")).state in (run_pb2.RUN_STATE_CANCELLING, CANCELLED)
    last = (await runs.story(run.run_id))[-1]
    assert (last.type, last.run_cancelled.reason) == ("run_cancelled", "enough")
    again = await runs.cancel(run.run_id, "once more")
    assert (again.state, again.error.message) == (CANCELLED, "enough")


async def test_a_waiting_run_is_cancelled_at_once_and_the_user_is_told(runs: Runs) -> None:
    busy = [await runs.start("sleeper", {"seconds": 60}) for _ in range(4)]
    for run in busy:
        await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)
    waiting = await runs.start("sleeper", {"seconds": 60})
    assert (await runs.get(waiting.run_id)).state == run_pb2.RUN_STATE_QUEUED
    assert (await runs.cancel(waiting.run_id)).state == CANCELLED
    assert types(await runs.story(waiting.run_id)) == ["run_queued", "run_cancelled"]
    for run in busy:
        await runs.cancel(run.run_id)
        await runs.story(run.run_id)


async def test_an_agent_that_does_not_stop_is_left_alone_and_can_do_nothing_more(runs: Runs) -> None:
    run = await runs.start("stubborn", {"seconds": 8, "uses_tool": True})
    await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)
    await runs.cancel(run.run_id)
    assert (await runs.story(run.run_id))[-1].type == "run_cancelled"
    assert (await runs.get(run.run_id)).state == CANCELLED


@pytest.mark.parametrize(
    ("agent", "input", "state", "type", "reason"),
    [
        ("failing", {}, FAILED, "agent_failed", "NOTHING_TO_DO"),
        ("crashing", {}, FAILED, "agent_failed", "AGENT_CRASHED"),
        ("dying", {}, DEAD, "agent_died", "AGENT_DIED"),
        ("unjust", {"kind": "nan"}, FAILED, "agent_failed", "RESULT_INVALID"),
        ("unjust", {"kind": "large"}, FAILED, "agent_failed", "RESULT_TOO_LARGE"),
        ("nested", {"depth": 0, "leaf": "failing"}, FAILED, "agent_failed", "NOTHING_TO_DO"),
        ("nested", {"depth": 0, "leaf": "nobody"}, FAILED, "agent_failed", "AGENT_NOT_FOUND"),
        ("nested", {"depth": 0, "leaf": "dying"}, DEAD, "agent_died", "AGENT_DIED"),
    ],
)
async def test_an_agents_end_is_told_to_its_own_user_only(
    runs: Runs, eves: Runs, agent: str, input: dict[str, Any], state: int, type: str, reason: str
) -> None:
    bystander = await eves.start("sleeper", {"seconds": 0.2})
    run = await runs.start(agent, input)
    last = (await runs.story(run.run_id))[-1]
    ended = await runs.get(run.run_id)
    assert (last.type, ended.state, ended.error.reason) == (type, state, reason)
    assert "secret" not in str(last) + str(ended)
    assert types(await eves.story(bystander.run_id))[-1] == "agent_completed"
    assert await eves.events(run.run_id) == []


async def test_many_users_at_once_each_get_their_own(system: System) -> None:
    people = await asyncio.gather(*(system.person() for _ in range(10)))

    async def one(person: Person, number: int) -> None:
        runs = Runs(system, person)
        run = await runs.start("counting", {"calls": number})
        events = await runs.story(run.run_id)
        assert {(event.tenant_id, event.user_id) for event in events} == {(person.tenant_id, person.user_id)}
        assert json.loads(events[-1].agent_completed.result_json)["numbers"] == list(range(1, number + 1))

    await asyncio.gather(*(one(person, number) for number, person in enumerate(people, 1)))
