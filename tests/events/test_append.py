"""Appending: once each, dense, fenced, and the user's own whatever the events say of themselves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import grpc
import pytest

from carrel.api.events.v1 import event_pb2
from tests.events.desk import Run, offsets, reader, texts, thought, thoughts
from tests.support.expect import refused
from tests.support.system import Person, System

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_events_are_numbered_from_one_without_gaps(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    first = await run.append(*thoughts(3))
    second = await run.append(*thoughts(2))
    assert (first.appended, first.last.offset, second.appended, second.last.offset) == (3, 3, 2, 5)
    assert first.last.epoch == second.last.epoch > 1_000_000_000
    assert offsets((await reader(system, ada).list()).events) == [1, 2, 3, 4, 5]


async def test_a_repeated_append_changes_nothing_and_answers_the_same(system: System, ada: Person) -> None:
    run, batch = await Run.of(system, ada), thoughts(3)
    first = await run.append(*batch)
    again = await run.append(*batch)
    assert (again.appended, again.last) == (0, first.last)
    mixed = await run.append(batch[0], thought("new"), batch[2])
    assert (mixed.appended, mixed.last.offset) == (1, 4)
    assert texts((await reader(system, ada).list()).events) == ["thought 1", "thought 2", "thought 3", "new"]


async def test_an_id_that_comes_twice_in_a_batch_is_taken_once(system: System, ada: Person) -> None:
    event = thought("one")
    answer = await (await Run.of(system, ada)).append(event, event)
    assert (answer.appended, answer.last.offset) == (1, 1)


async def test_nothing_of_a_run_comes_after_its_final_event(system: System, ada: Person) -> None:
    run, other = await Run.of(system, ada), await Run.of(system, ada)
    last = thought("last", final=True)
    first = await run.append(thought("first"), last, thought("in the same append"))
    assert (first.appended, first.last.offset) == (2, 2)
    late = await run.append(thought("late, of the same attempt"), last)
    assert (late.appended, late.last.offset) == (0, 2)
    await asyncio.gather(*(other.append(thought(f"other {number}", final=number == 3)) for number in (1, 2, 3, 4)))
    kept = (await reader(system, ada).list()).events
    assert texts(kept[:2]) == ["first", "last"]
    assert kept[-1].final, "appends that are committed together know of each other's ends"


async def test_a_later_attempt_fences_off_the_earlier_one_of_the_same_run(system: System, ada: Person) -> None:
    first = await Run.of(system, ada, "run-fenced", attempt=1)
    second = await Run.of(system, ada, "run-fenced", attempt=2)
    other = await Run.of(system, ada, "run-beside", attempt=1)
    kept = thought("by the first")
    await first.append(kept)
    await second.append(thought("by the second"))
    with refused(grpc.StatusCode.ABORTED, "STALE_ATTEMPT"):
        await first.append(thought("too late"))
    with refused(grpc.StatusCode.ABORTED, "STALE_ATTEMPT"):
        await first.append(kept)
    await other.append(thought("beside"))
    events = (await reader(system, ada).list()).events
    assert texts(events) == ["by the first", "by the second", "beside"]
    assert [event.attempt for event in events] == [1, 2, 1]


async def test_appends_at_once_leave_no_gap_and_no_duplicate(system: System, ada: Person) -> None:
    runs = [await Run.of(system, ada) for _ in range(4)]
    batches = [(run, thoughts(3)) for run in runs for _ in range(6)]
    # Each batch twice, as after a lost answer: both at the same time.
    await asyncio.gather(*(run.append(*batch) for run, batch in [*batches, *batches]))
    page = await reader(system, ada).list(page_size=1000)
    assert offsets(page.events) == list(range(1, 73))
    sent = [event.event_id for _, batch in batches for event in batch]
    assert sorted(event.event_id for event in page.events) == sorted(sent)


async def test_what_an_event_says_of_its_owner_and_place_is_not_believed(
    system: System, ada: Person, eve: Person
) -> None:
    lie = thought(
        tenant_id=eve.tenant_id,
        user_id=eve.user_id,
        run_id="run-of-another",
        thread_id="thread-of-another",
        attempt=9,
        cursor=event_pb2.Cursor(epoch=7, offset=99),
        agent="sub-agent",
        final=True,
    )
    run = await Run.of(system, ada, "run-true", thread_id="thread-true", attempt=3)
    answer = await run.append(lie)
    [event] = (await reader(system, ada).list()).events
    assert (event.tenant_id, event.user_id) == (ada.tenant_id, ada.user_id)
    assert (event.run_id, event.thread_id, event.attempt) == ("run-true", "thread-true", 3)
    assert (event.agent, event.final, event.cursor) == ("sub-agent", True, answer.last)
    assert not (await reader(system, eve).list()).events


async def test_two_users_may_use_the_same_event_id(system: System, ada: Person, eve: Person) -> None:
    event = thought()
    assert (await (await Run.of(system, ada)).append(event)).appended == 1
    assert (await (await Run.of(system, eve)).append(event)).appended == 1


async def test_the_time_is_the_producers_or_now(system: System, ada: Person) -> None:
    said = thought()
    said.create_time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    await (await Run.of(system, ada)).append(said, thought())
    first, second = (await reader(system, ada).list()).events
    assert first.create_time == said.create_time
    assert abs(second.create_time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds() < 60


async def test_secrets_are_gone_before_the_log_has_them(system: System, ada: Person) -> None:
    call = event_pb2.ToolExecuting(tool="sql", arguments_json='{"query": "SELECT 1", "Api-Key": "hunter2"}')
    event = event_pb2.Event(event_id="event-secret", type="tool_executing", tool_executing=call)
    await (await Run.of(system, ada)).append(event, thought("Authorization: Bearer abcdefgh12345678"))
    first, second = (await reader(system, ada).list()).events
    assert first.tool_executing.arguments_json == '{"query":"SELECT 1","Api-Key":"[redacted]"}'
    assert "abcdefgh" not in second.agent_thinking.text


WRONG = {
    "no events": ([], "events", "INVALID_ARGUMENT"),
    "too many events": (thoughts(1001), "events", "INVALID_ARGUMENT"),
    "no id": ([thought(event_id="")], "events[0].event_id", "INVALID_ID"),
    "a placeholder for an id": ([thought(), thought(event_id="none")], "events[1].event_id", "INVALID_ID"),
    "no type": ([thought(type="")], "events[0].type", "INVALID_ARGUMENT"),
    "a type of capitals": ([thought(type="Agent")], "events[0].type", "INVALID_ARGUMENT"),
    "a type that is too long": ([thought(type="a" * 65)], "events[0].type", "INVALID_ARGUMENT"),
    "a huge event": ([thought("x" * 256 * 1024)], "events[0]", "TOO_LARGE"),
}


@pytest.mark.parametrize(("events", "field", "reason"), WRONG.values(), ids=WRONG)
async def test_a_wrong_event_is_refused_by_its_field_and_nothing_is_added(
    system: System, ada: Person, events: list[event_pb2.Event], field: str, reason: str
) -> None:
    with refused(INVALID, reason) as refusal:
        await (await Run.of(system, ada)).append(*events)
    assert refusal.error.fields.keys() == {field}
    assert not (await reader(system, ada).list()).events


async def test_a_time_beyond_the_calendar_is_refused(system: System, ada: Person) -> None:
    event = thought()
    event.create_time.seconds = 10**15
    with refused(INVALID, "INVALID_ARGUMENT") as refusal:
        await (await Run.of(system, ada)).append(event)
    assert refusal.error.fields.keys() == {"events[0].create_time"}
