"""Schedules from outside: every RPC, and what becomes of what is due, through real services.

Nobody waits for a minute here: a schedule is made due by moving its time back in the database.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio

from carrel.api.context.v1.user_context_pb2 import SignedUserContext
from carrel.api.runs.v1 import run_pb2, schedule_pb2
from carrel.api.runs.v1 import schedule_service_pb2 as pb
from carrel.api.runs.v1 import schedule_service_pb2_grpc as rpc
from carrel_chassis.db.engine import Connection, cross_user_engine
from carrel_chassis.ids import new_id
from carrel_chassis.signing import decode_context
from carrel_execution.schedules.due import TAKE_DUE_SCHEDULES
from tests.context.test_births import exchange
from tests.context.test_limits import set_limits
from tests.execution.test_follow import plan
from tests.execution.test_runs import SUCCEEDED, Runs
from tests.support.expect import eventually, refused
from tests.support.revoking import SCOPE, SESSION, USER, restore, revoke
from tests.support.system import Person, System

OVER = (SUCCEEDED, run_pb2.RUN_STATE_FAILED)


class Schedules:
    """The schedules of one person, as a client sees them, and a way to make them due."""

    def __init__(self, system: System, person: Person, database: asyncpg.Connection) -> None:
        self._stub: rpc.ScheduleServiceAsyncStub = rpc.ScheduleServiceStub(system.peer("agent-execution").channel)
        self._call: dict[str, Any] = {"metadata": person.metadata, "timeout": 20.0}
        self._database = database
        self.runs = Runs(system, person)

    async def create(self, cron: str = "0 0 1 1 *", **wanted: Any) -> schedule_pb2.Schedule:
        fields = {"request_id": new_id("request"), "agent": "counting", "input_json": '{"calls":1}', **wanted}
        return (await self._stub.CreateSchedule(pb.CreateScheduleRequest(cron=cron, **fields), **self._call)).schedule

    async def get(self, schedule_id: str) -> schedule_pb2.Schedule:
        return (await self._stub.GetSchedule(pb.GetScheduleRequest(schedule_id=schedule_id), **self._call)).schedule

    async def list(self, **wanted: Any) -> pb.ListSchedulesResponse:
        return await self._stub.ListSchedules(pb.ListSchedulesRequest(**wanted), **self._call)

    async def pause(self, schedule_id: str, paused: bool = True) -> schedule_pb2.Schedule:
        request = pb.PauseScheduleRequest(schedule_id=schedule_id, paused=paused)
        return (await self._stub.PauseSchedule(request, **self._call)).schedule

    async def delete(self, schedule_id: str) -> None:
        await self._stub.DeleteSchedule(pb.DeleteScheduleRequest(schedule_id=schedule_id), **self._call)

    async def change(self, schedule_id: str, **values: Any) -> None:
        """Changes the row, as nobody but a test can."""
        for name, value in values.items():
            changed = await self._database.execute(
                f"UPDATE execution.schedule SET {name} = $2, hold_until = '-infinity' WHERE schedule_id = $1",
                schedule_id,
                value,
            )
            assert changed == "UPDATE 1"

    async def let_come(self, schedule_id: str, due: datetime | None = None) -> schedule_pb2.Schedule:
        """Makes it due, and returns it when it has gone on."""
        due = due or datetime.now(UTC) - timedelta(seconds=1)
        await self.change(schedule_id, next_time=due)

        async def look() -> schedule_pb2.Schedule | None:
            schedule = await self.get(schedule_id)
            return schedule if schedule.next_time.ToDatetime(UTC) != due else None

        return await eventually(look)

    async def started(self, schedule_id: str) -> list[run_pb2.Run]:
        """The runs that it has started."""
        return [run for run in (await self.runs.list()).runs if run.schedule_id == schedule_id]


@pytest_asyncio.fixture
async def database(system: System) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    yield connection
    await connection.close()


@pytest.fixture
def schedules(system: System, ada: Person, database: asyncpg.Connection) -> Schedules:
    return Schedules(system, ada, database)


@pytest.fixture
def eves(system: System, eve: Person, database: asyncpg.Connection) -> Schedules:
    return Schedules(system, eve, database)


async def test_a_schedule_is_made_listed_paused_resumed_and_deleted(schedules: Schedules) -> None:
    made = await schedules.create("30 7 * * *", time_zone="Europe/Vienna", thread_id="thread-1", priority=7)
    assert (made.cron, made.time_zone, made.agent, made.thread_id) == (
        "30 7 * * *",
        "Europe/Vienna",
        "counting",
        "thread-1",
    )
    assert (made.busy_thread, made.priority, made.input_json) == (run_pb2.BUSY_THREAD_ENQUEUE, 7, '{"calls":1}')
    assert made.next_time.ToDatetime().strftime("%M") == "30" and made.next_time.ToDatetime(UTC) > datetime.now(UTC)
    assert await schedules.get(made.schedule_id) == made
    assert list((await schedules.list()).schedules) == [made]
    paused = await schedules.pause(made.schedule_id)
    assert paused.paused and not paused.HasField("next_time") and await schedules.pause(made.schedule_id) == paused
    resumed = await schedules.pause(made.schedule_id, False)
    assert resumed == made and await schedules.pause(made.schedule_id, False) == made
    await schedules.delete(made.schedule_id)
    with refused(grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND"):
        await schedules.get(made.schedule_id)
    assert not (await schedules.list()).schedules


async def test_pages_hold_every_schedule_once(schedules: Schedules, eves: Schedules) -> None:
    await eves.create()
    made = [(await schedules.create()).schedule_id for _ in range(5)]
    listed, token = [], ""
    while True:
        page = await schedules.list(page_size=2, page_token=token)
        listed += [schedule.schedule_id for schedule in page.schedules]
        if not (token := page.next_page_token):
            break
    assert listed == made[::-1]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await schedules.list(page_token=(await schedules.runs.list()).next_page_token or "eA==")


async def test_the_same_request_makes_one_schedule(schedules: Schedules, eves: Schedules) -> None:
    both = await asyncio.gather(*(schedules.create(request_id="request-7") for _ in range(2)))
    assert both[0] == both[1]
    with refused(grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED"):
        await schedules.create("1 0 1 1 *", request_id="request-7")
    assert (await eves.create(request_id="request-7")).schedule_id != both[0].schedule_id


async def test_another_user_can_neither_see_nor_change_a_schedule(schedules: Schedules, eves: Schedules) -> None:
    made = await schedules.create()
    for attempt in (eves.get, eves.pause, eves.delete, lambda schedule_id: eves.pause(schedule_id, False)):
        with refused(grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND"):
            await attempt(made.schedule_id)
    assert not (await eves.list()).schedules
    assert await schedules.get(made.schedule_id) == made


@pytest.mark.parametrize(
    ("wanted", "reason", "field"),
    [
        ({"cron": "* * * * * *"}, "INVALID_ARGUMENT", "cron"),
        ({"cron": "0 0 30 2 *"}, "INVALID_ARGUMENT", "cron"),
        ({"time_zone": "Europe/Atlantis"}, "INVALID_ARGUMENT", "time_zone"),
        ({"input_json": "[]"}, "INVALID_ARGUMENT", "input_json"),
        ({"priority": 101}, "INVALID_ARGUMENT", "priority"),
        ({"busy_thread": 99}, "INVALID_ARGUMENT", "busy_thread"),
        ({"thread_id": "a b"}, "INVALID_ID", "thread_id"),
        ({"request_id": "registry"}, "INVALID_ID", "request_id"),
        ({"agent": ""}, "INVALID_ARGUMENT", "agent"),
    ],
)
async def test_a_wrong_schedule_is_refused_by_its_field(
    schedules: Schedules, wanted: dict[str, Any], reason: str, field: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, reason) as refusal:
        await schedules.create(**wanted)
    assert [*refusal.error.fields] == [field]
    assert not (await schedules.list()).schedules


async def test_an_agent_that_there_is_not_cannot_be_scheduled(schedules: Schedules) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"):
        await schedules.create(agent="nobody")


async def test_a_run_makes_no_schedule_that_would_outlive_it(
    system: System, ada: Person, schedules: Schedules, database: asyncpg.Connection
) -> None:
    signed = await system.run_context(ada, "run-1")
    of_run = Schedules(system, Person(ada.tenant_id, ada.user_id, signed, ada.token), database)
    made = await schedules.create()
    await schedules.pause(made.schedule_id)
    for attempt in (of_run.create(), of_run.pause(made.schedule_id, False)):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "WIDENING_REFUSED"):
            await attempt


async def test_nobody_has_more_schedules_than_may_be_however_many_are_made_at_once(schedules: Schedules) -> None:
    answers = await asyncio.gather(*(schedules.create() for _ in range(110)), return_exceptions=True)
    assert sum(isinstance(answer, schedule_pb2.Schedule) for answer in answers) == 100
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await schedules.create()
    assert refusal.error.metadata["limit"] == "schedules"
    await schedules.delete((await schedules.list()).schedules[0].schedule_id)
    await schedules.create()


async def test_what_is_due_starts_one_run_and_goes_on(schedules: Schedules) -> None:
    made = await schedules.create("* * * * *", priority=3)
    went_on = await schedules.let_come(made.schedule_id)
    [run] = await schedules.started(made.schedule_id)
    assert (went_on.last_run_id, went_on.last_error, run.priority, run.agent) == (run.run_id, "", 3, "counting")
    assert timedelta(0) < went_on.next_time.ToDatetime(UTC) - datetime.now(UTC) <= timedelta(minutes=1)
    story = await schedules.runs.story(run.run_id)
    assert story[-1].type == "agent_completed"


async def test_what_passed_while_nothing_ran_is_made_up_for_by_one_run(schedules: Schedules) -> None:
    made = await schedules.create("*/5 * * * *")
    went_on = await schedules.let_come(made.schedule_id, datetime.now(UTC) - timedelta(hours=3))
    assert went_on.next_time.ToDatetime(UTC) > datetime.now(UTC)
    assert [run.run_id for run in await schedules.started(made.schedule_id)] == [went_on.last_run_id]


async def test_whoever_dies_after_the_start_is_followed_by_one_who_starts_the_same_run(schedules: Schedules) -> None:
    made = await schedules.create()
    due = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    first = await schedules.let_come(made.schedule_id, due)
    again = await schedules.let_come(made.schedule_id, due)  # as if nobody had noted it
    assert first.last_run_id == again.last_run_id
    assert len(await schedules.started(made.schedule_id)) == 1


async def test_what_one_process_has_taken_no_other_takes(system: System, schedules: Schedules) -> None:
    made = {(await schedules.create()).schedule_id for _ in range(3)}
    in_a_hundred_years = datetime.now(UTC) + timedelta(days=36_525)
    values = {"now": in_a_hundred_years, "hold_until": in_a_hundred_years + timedelta(seconds=30), "count": 1000}
    engines = [cross_user_engine(system.database_url("carrel_execution_runner"), 1) for _ in range(2)]

    async def take(connection: Connection) -> set[str]:
        return made & {row.schedule_id for row in await connection.execute(TAKE_DUE_SCHEDULES, values)}

    try:
        with pytest.raises(Undone):  # the service of all tests is to find its schedules as they were
            async with engines[0].begin() as first, engines[1].begin() as second:
                assert await take(first) == made
                assert await take(second) == set(), "while the first is at it"
                assert await take(first) == set(), "and for as long as it holds them"
                raise Undone
    finally:
        for engine in engines:
            await engine.dispose()


async def test_what_is_due_is_found_without_reading_all_schedules(system: System) -> None:
    now = datetime.now(UTC)
    assert await plan(system, TAKE_DUE_SCHEDULES, {"now": now, "hold_until": now, "count": 1}) >= {"schedule_line"}


class Undone(Exception):
    """Rolls back what a test has done."""


async def test_a_schedule_that_is_paused_or_deleted_starts_nothing(schedules: Schedules) -> None:
    paused, deleted, other = [await schedules.create() for _ in range(3)]
    await schedules.pause(paused.schedule_id)
    await schedules.delete(deleted.schedule_id)
    await schedules.let_come(other.schedule_id)
    assert [run.schedule_id for run in (await schedules.runs.list()).runs] == [other.schedule_id]


async def test_a_busy_thread_is_dealt_with_as_the_schedule_says(schedules: Schedules) -> None:
    waiting = await schedules.create(thread_id="thread-1")
    refusing = await schedules.create(thread_id="thread-1", busy_thread=run_pb2.BUSY_THREAD_REJECT)
    busy = await schedules.runs.start("sleeper", {"seconds": 30}, thread_id="thread-1")
    assert (await schedules.let_come(waiting.schedule_id)).last_error == ""
    refused_once = await schedules.let_come(refusing.schedule_id)
    assert busy.run_id in refused_once.last_error and not refused_once.paused and not refused_once.last_run_id
    [queued] = await schedules.started(waiting.schedule_id)
    assert queued.state == run_pb2.RUN_STATE_QUEUED
    await schedules.runs.cancel(busy.run_id)
    await schedules.runs.until(queued.run_id, SUCCEEDED)
    assert (await schedules.let_come(refusing.schedule_id)).last_error == ""


async def test_a_start_that_is_refused_is_told_and_the_next_is_tried(schedules: Schedules) -> None:
    made = await schedules.create()
    await schedules.change(made.schedule_id, agent="gone")
    refused_once = await schedules.let_come(made.schedule_id)
    assert "gone" in refused_once.last_error and refused_once.HasField("next_time")
    await schedules.change(made.schedule_id, agent="counting")
    went_on = await schedules.let_come(made.schedule_id)
    assert went_on.last_error == "" and went_on.last_run_id


async def test_a_limit_of_the_user_holds_for_schedules_too(
    system: System, ada: Person, database: asyncpg.Connection
) -> None:
    await set_limits(system, ada.tenant_id, ada.user_id, queued_runs=1, running_runs=1)
    limited = Schedules(system, await system.person(ada.tenant_id, ada.user_id), database)
    made = await limited.create()
    for _ in range(2):
        await limited.runs.start("sleeper", {"seconds": 30})
    refused_once = await limited.let_come(made.schedule_id)
    assert "runs waiting" in refused_once.last_error and not refused_once.paused


async def test_a_schedule_stops_with_its_session_and_goes_on_in_another(
    system: System, ada: Person, schedules: Schedules, database: asyncpg.Connection
) -> None:
    made = await schedules.create("* * * * *")
    again = Schedules(system, await system.person(ada.tenant_id, ada.user_id), database)
    elsewhere = await again.create("* * * * *")
    await revoke(system, ada, SESSION, ada.context.session_id)
    stopped = await again.let_come(made.schedule_id)
    assert stopped.paused and "revoked" in stopped.last_error and not stopped.last_run_id
    assert (await again.let_come(elsewhere.schedule_id)).last_run_id  # another session's is none of its business
    resumed = await again.pause(made.schedule_id, False)
    assert not resumed.paused and resumed.last_error == ""
    assert (await again.let_come(made.schedule_id)).last_run_id


async def test_a_revoked_session_is_noticed_though_nothing_is_due(
    system: System, ada: Person, schedules: Schedules, database: asyncpg.Connection
) -> None:
    made = await schedules.create()
    await revoke(system, ada, SESSION, ada.context.session_id)
    again = Schedules(system, await system.person(ada.tenant_id, ada.user_id), database)
    await again.change(made.schedule_id, check_time=datetime.now(UTC))

    async def stopped() -> bool:
        return (await again.get(made.schedule_id)).paused

    assert await eventually(stopped)
    assert not await again.started(made.schedule_id)


async def test_a_look_at_the_session_starts_nothing(schedules: Schedules, database: asyncpg.Connection) -> None:
    made = await schedules.create()
    await schedules.change(made.schedule_id, last_error="The thread was busy.")
    made = await schedules.get(made.schedule_id)
    await schedules.change(made.schedule_id, check_time=datetime.now(UTC))

    async def looked() -> bool:
        query = "SELECT check_time > now() FROM execution.schedule WHERE schedule_id = $1"
        return bool(await database.fetchval(query, made.schedule_id))

    assert await eventually(looked)
    assert await schedules.get(made.schedule_id) == made and not await schedules.started(made.schedule_id)


async def test_a_revoked_user_starts_nothing_any_more(
    system: System, ada: Person, schedules: Schedules, database: asyncpg.Connection
) -> None:
    made = await schedules.create()
    await revoke(system, ada, USER)
    await schedules.change(made.schedule_id, next_time=datetime.now(UTC))

    async def row() -> asyncpg.Record | None:
        query = "SELECT paused, last_error, last_run_id FROM execution.schedule WHERE schedule_id = $1"
        found = await database.fetchrow(query, made.schedule_id)
        return found if found["last_error"] else None

    paused, error, run_id = await eventually(row)
    assert paused and "revoked" in error and not run_id


async def test_a_right_that_is_taken_and_given_back_holds_for_schedules(
    system: System, ada: Person, schedules: Schedules, database: asyncpg.Connection
) -> None:
    made = await schedules.create()
    await revoke(system, ada, SCOPE, "runs.start")
    without = await schedules.let_come(made.schedule_id)
    assert "runs.start" in without.last_error and not without.paused and not without.last_run_id
    await restore(system, ada, SCOPE, "runs.start")
    assert (await schedules.let_come(made.schedule_id)).last_run_id


async def test_what_a_schedule_starts_can_do_no_more_than_the_session_that_made_it(
    system: System, ada: Person, database: asyncpg.Connection
) -> None:
    scopes = ["runs.start", "runs.read", "tools.use", "events.read"]
    signed = await exchange(system, ada.signed_context, scopes=scopes, thread_id="thread-narrow")
    narrow = Schedules(system, Person(ada.tenant_id, ada.user_id, signed, ada.token), database)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "WIDENING_REFUSED"):
        await narrow.create(thread_id="thread-wide")
    made = await narrow.create()
    assert made.thread_id == "thread-narrow"
    went_on = await narrow.let_come(made.schedule_id)
    grant = await database.fetchval("SELECT grant_bytes FROM execution.run WHERE run_id = $1", went_on.last_run_id)
    context = decode_context(SignedUserContext.FromString(grant).context)
    assert (context.scopes, context.thread_id, context.session_id) == (
        set(scopes),
        "thread-narrow",
        ada.context.session_id,
    )


async def test_the_context_of_another_user_in_a_schedule_starts_nothing_for_either(
    eve: Person, schedules: Schedules, eves: Schedules
) -> None:
    made = await schedules.create()
    await schedules.change(made.schedule_id, grant_bytes=eve.signed_context)
    stopped = await schedules.let_come(made.schedule_id)
    assert stopped.paused and "another user" in stopped.last_error
    assert not (await schedules.runs.list()).runs and not (await eves.runs.list()).runs


async def test_input_of_the_largest_size_is_kept_and_pages_become_shorter(schedules: Schedules) -> None:
    large = json.dumps({"calls": 1, "text": "x" * 250_000})
    for _ in range(12):
        await schedules.create(input_json=large)
    page = await schedules.list()
    assert 0 < len(page.schedules) < 12 and page.next_page_token
    rest = await schedules.list(page_token=page.next_page_token)
    assert len(page.schedules) + len(rest.schedules) == 12
