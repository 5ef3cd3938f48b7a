"""Listing: pages after a cursor, with a filter, of one's own log."""

from __future__ import annotations

import grpc

from carrel.api.events.v1 import event_pb2
from tests.events.desk import Run, offsets, reader, texts, thought, thoughts
from tests.support.expect import refused
from tests.support.system import Person, System

Cursor = event_pb2.Cursor


async def test_pages_follow_each_other_by_their_positions(system: System, ada: Person) -> None:
    await (await Run.of(system, ada)).append(*thoughts(5))
    desk = reader(system, ada)
    first = await desk.list(page_size=2)
    second = await desk.list(page_size=2, after=first.position)
    third = await desk.list(page_size=2, after=second.position)
    assert [offsets(page.events) for page in (first, second, third)] == [[1, 2], [3, 4], [5]]
    assert [page.more for page in (first, second, third)] == [True, True, False]
    assert not (await desk.list(after=third.position)).events


async def test_a_page_that_holds_the_last_event_says_that_there_is_no_more(system: System, ada: Person) -> None:
    await (await Run.of(system, ada)).append(*thoughts(2))
    assert not (await reader(system, ada).list(page_size=2)).more


async def test_a_filter_is_by_run_by_thread_and_by_type(system: System, ada: Person) -> None:
    one = await Run.of(system, ada, "run-one", thread_id="thread-one")
    two = await Run.of(system, ada, "run-two", thread_id="thread-two")
    await one.append(thought("a"), thought("b", type="custom"))
    await two.append(thought("c"), thought("d", type="custom"))
    desk = reader(system, ada)
    wanted = {
        "run_id": ({"run_id": "run-one"}, ["a", "b"]),
        "thread_id": ({"thread_id": "thread-two"}, ["c", "d"]),
        "types": ({"types": ["custom", "agent_died"]}, ["b", "d"]),
        "all": ({"run_id": "run-one", "thread_id": "thread-one", "types": ["custom"]}, ["b"]),
        "none": ({"run_id": "run-one", "thread_id": "thread-two"}, []),
    }
    for filter, expected in wanted.values():
        page = await desk.list(filter=filter)
        assert (texts(page.events), page.position.offset, page.more) == (expected, 4, False)


async def test_a_page_stays_below_the_size_of_a_message(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    for _ in range(2):
        await run.append(*(thought("x" * 200_000) for _ in range(15)))
    desk, after, seen = reader(system, ada), None, []
    while True:
        page = await desk.list(page_size=1000, after=after)
        seen += offsets(page.events)
        after = page.position
        if not page.more:
            break
    assert seen == list(range(1, 31))


async def test_a_cursor_of_another_epoch_is_history_truncated(system: System, ada: Person) -> None:
    last = (await (await Run.of(system, ada)).append(*thoughts(3))).last
    with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED") as refusal:
        await reader(system, ada).list(after=Cursor(epoch=last.epoch - 1, offset=1))
    assert refusal.error.metadata == {"epoch": str(last.epoch), "oldest_offset": "1", "newest_offset": "3"}


async def test_a_cursor_from_the_future_is_invalid(system: System, ada: Person) -> None:
    last = (await (await Run.of(system, ada)).append(*thoughts(3))).last
    for offset in (4, 2**63, 2**64 - 1):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
            await reader(system, ada).list(after=Cursor(epoch=last.epoch, offset=offset))


async def test_a_user_without_events_has_an_empty_log_and_no_cursors(system: System, ada: Person) -> None:
    desk = reader(system, ada)
    for after in (None, Cursor()):
        page = await desk.list(after=after)
        assert (list(page.events), page.position, page.more) == ([], Cursor(), False)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED"):
        await desk.list(after=Cursor(epoch=1_700_000_000, offset=1))


async def test_wrong_requests_are_refused_by_their_field(system: System, ada: Person) -> None:
    desk = reader(system, ada)
    wrong = {
        "page_size": {"page_size": 1001},
        "filter.run_id": {"filter": {"run_id": "run\x00"}},
        "filter.thread_id": {"filter": {"thread_id": "null"}},
        "filter.types": {"filter": {"types": ["Not A Type"]}},
    }
    for field, request in wrong.items():
        reason = "INVALID_ID" if field.endswith("_id") else "INVALID_ARGUMENT"
        with refused(grpc.StatusCode.INVALID_ARGUMENT, reason) as refusal:
            await desk.list(**request)
        assert refusal.error.fields.keys() == {field}
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await desk.list(filter={"types": ["custom"] * 51})


async def test_another_user_sees_nothing_whatever_they_ask_for(system: System, ada: Person, eve: Person) -> None:
    last = (await (await Run.of(system, ada, "run-of-ada", thread_id="thread-of-ada")).append(*thoughts(3))).last
    colleague = await system.person(tenant_id=ada.tenant_id)
    namesake = await system.person(user_id=ada.user_id)
    for other in (eve, colleague, namesake):
        desk = reader(system, other)
        assert not (await desk.list()).events
        assert not (await desk.list(filter={"run_id": "run-of-ada", "thread_id": "thread-of-ada"})).events
        with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED") as refusal:
            await desk.list(after=last)
        assert refusal.error.metadata["newest_offset"] == "0"
