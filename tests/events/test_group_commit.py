"""Group commit: what comes while a commit is under way goes as one, users take turns, and one that is refused harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from carrel_chassis.errors import CarrelError, Kind
from carrel_events.domain import Append, Appended, NewEvent
from carrel_events.group_commit import GroupCommit
from carrel_events.work import in_background
from carrel_events.writer import LogWriter
from tests.events.desk import Run, offsets, reader, thought, thoughts
from tests.events.test_row_security import batch, writer
from tests.support.system import Person, System

__all__ = ["writer"]  # a fixture, for the tests below


class Commits:
    """A log that is told when to be done, and refuses what is poisoned."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.published: list[str] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.error: CarrelError | None = None

    async def write(self, appends: Sequence[Append]) -> list[Appended]:
        self.batches.append([append.sent[0].event_id for append in appends])
        self.begun.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if any(append.sent[0].event_id == "poison" for append in appends):
            raise ValueError("the database refuses this")
        return [Appended(False, 1, 1, (append.sent[0].event_id,), (1,)) for append in appends]

    async def publish(self, written: Sequence[tuple[Append, Appended]]) -> None:
        self.published += [append.sent[0].event_id for append, _ in written]


@pytest_asyncio.fixture
async def commits() -> Commits:
    return Commits()


@pytest_asyncio.fixture
async def group(commits: Commits) -> AsyncIterator[GroupCommit]:
    group = GroupCommit(commits.write, commits.publish)
    async with in_background(group.run()):
        yield group


@pytest_asyncio.fixture
async def people(system: System) -> list[Person]:
    return [await system.person() for _ in range(3)]


def append(person: Person, event_id: str) -> Append:
    return Append(person.context, (NewEvent(event_id, "custom", datetime.now(UTC), b"body"),))


async def begun(group: GroupCommit, *appends: Append) -> list[asyncio.Task[Appended]]:
    tasks = [asyncio.create_task(group.append(one)) for one in appends]
    await asyncio.sleep(0)
    return tasks


async def test_what_comes_during_a_commit_goes_as_one_and_users_take_turns(
    group: GroupCommit, commits: Commits, people: list[Person]
) -> None:
    ada, eve, bob = people
    first = await begun(group, append(ada, "first"))
    await commits.begun.wait()
    rest = await begun(
        group,
        *(append(ada, f"ada-{n}") for n in range(3)),
        append(eve, "eve-0"),
        append(bob, "bob-0"),
        append(eve, "eve-1"),
    )
    commits.gate.set()
    await asyncio.gather(*first, *rest)
    assert commits.batches == [["first"], ["ada-0", "eve-0", "bob-0", "ada-1", "eve-1", "ada-2"]]
    assert commits.published == [event_id for batch in commits.batches for event_id in batch]


async def test_one_that_is_refused_does_not_take_its_neighbours_with_it(
    group: GroupCommit, commits: Commits, people: list[Person]
) -> None:
    commits.gate.set()
    ada, eve, bob = people
    good, bad, also_good = await begun(group, append(ada, "a"), append(eve, "poison"), append(bob, "b"))
    await asyncio.gather(good, also_good)
    with pytest.raises(ValueError, match="refuses"):
        await bad
    assert commits.published == ["a", "b"]


async def test_without_a_database_all_are_told_and_the_next_ones_go_through(
    group: GroupCommit, commits: Commits, people: list[Person]
) -> None:
    commits.gate.set()
    commits.error = CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "gone")
    for task in await begun(group, *(append(person, "x") for person in people)):
        with pytest.raises(CarrelError, match="gone"):
            await task
    commits.error = None
    [task] = await begun(group, append(people[0], "y"))
    assert (await task).new_ids == ("y",)


async def test_who_gave_up_before_the_commit_is_left_out(
    group: GroupCommit, commits: Commits, people: list[Person]
) -> None:
    first = await begun(group, append(people[0], "first"))
    await commits.begun.wait()
    [gone, stays] = await begun(group, append(people[1], "gone"), append(people[2], "stays"))
    gone.cancel()
    await asyncio.sleep(0)
    commits.gate.set()
    await asyncio.gather(*first, stays)
    assert commits.batches[1] == ["stays"]


async def test_a_user_has_so_many_appends_waiting_and_no_more(
    group: GroupCommit, commits: Commits, people: list[Person]
) -> None:
    ada, eve, _ = people
    tasks = await begun(group, *(append(ada, f"ada-{n}") for n in range(100)))
    await asyncio.sleep(0)
    refusals = [task.exception() for task in tasks if task.done()]
    assert refusals and all(isinstance(error, CarrelError) and error.reason == "LIMIT_EXCEEDED" for error in refusals)
    [other] = await begun(group, append(eve, "eve"))
    commits.gate.set()
    assert (await other).new_ids == ("eve",)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_many_users_in_one_statement_each_have_their_own_offsets(
    writer: LogWriter, ada: Person, eve: Person
) -> None:
    answers = await writer.append([batch(ada, 2), batch(eve, 3), batch(ada, 1), batch(eve, 1)])
    assert [answer.new_offsets for answer in answers] == [(1, 2), (1, 2, 3), (3,), (4,)]
    assert [answer.last_offset for answer in answers] == [3, 4, 3, 4]


async def test_within_a_statement_a_repeated_event_is_added_once_and_an_old_attempt_not_at_all(
    writer: LogWriter, ada: Person
) -> None:
    first = batch(ada, 2, attempt=2)
    old = Append(replace(first.user, attempt=1), batch(ada, 1).sent)
    other_run = batch(ada, 1, run_id="run-8")
    answers = await writer.append([first, old, first, other_run])
    assert [(answer.stale, answer.new_offsets) for answer in answers] == [
        (False, (1, 2)),
        (True, ()),
        (False, ()),
        (False, (3,)),
    ]


async def test_writers_that_share_users_in_different_orders_do_not_wait_for_each_other_for_ever(
    system: System, writer: LogWriter
) -> None:
    people = [await system.person() for _ in range(12)]
    run = [await Run.of(system, person) for person in people]

    async def by_statement(order: list[Person]) -> None:
        for _ in range(10):
            await writer.append([batch(person, 1) for person in order])

    async def by_service(number: int) -> None:
        for _ in range(10):
            await run[number].append(thought())

    async with asyncio.timeout(30):
        services = (by_service(number) for number in range(12))
        await asyncio.gather(by_statement(people), by_statement(people[::-1]), *services)
    for person in people:
        assert offsets((await reader(system, person).list()).events) == list(range(1, 31))


async def test_an_append_as_large_as_allowed_goes_beside_small_ones(system: System, ada: Person, eve: Person) -> None:
    large, small = await Run.of(system, ada), await Run.of(system, eve)
    answers = await asyncio.gather(large.append(*thoughts(1000)), *(small.append(thought()) for _ in range(20)))
    assert answers[0].last.offset == 1000
    assert sorted(answer.last.offset for answer in answers[1:])[-1] == 20
