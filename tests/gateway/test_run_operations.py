"""What a user does with runs beyond starting and watching them, through the client and over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import asyncpg
import grpc
import pytest
import pytest_asyncio

from carrel import Client
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.gateway.v1 import gateway_service_pb2_grpc as rpc
from carrel.client import OnDisconnect, RunState, Wait, WaitKind
from carrel.errors import Conflict, InvalidArgument, NotFound, PermissionDenied
from carrel_chassis.signing import CLOCK_SKEW_SECONDS
from tests.gateway.edge import Issuer, bearer, http_client
from tests.support.directory import with_role
from tests.support.expect import eventually, refused
from tests.support.system import Person, System

SLEEPER = {"seconds": 60}


@pytest_asyncio.fixture
async def client(system: System, ada: Person) -> AsyncIterator[Client]:
    async with Client(system.addresses["gateway"], ada.token) as client:
        yield client


@pytest_asyncio.fixture
async def stranger(system: System, eve: Person) -> AsyncIterator[Client]:
    async with Client(system.addresses["gateway"], eve.token) as client:
        yield client


async def the_wait(client: Client, run_id: str) -> Wait:
    """What the run waits for, once it does."""

    async def found() -> list[Wait]:
        return [wait async for wait in client.list_waits(run_id)]

    [wait] = await eventually(found)
    return wait


async def test_a_run_gets_the_input_that_it_waits_for(client: Client, stranger: Client) -> None:
    run = await client.start_run("asking", {"key": "gateway-input"})
    wait = await the_wait(client, run.run_id)
    assert (wait.kind, wait.prompt, wait.run_id) == (WaitKind.WAIT_KIND_INPUT, "Which number?", run.run_id)
    assert not [seen async for seen in stranger.list_waits()]
    with pytest.raises(NotFound):
        await stranger.answer_wait(wait.wait_id, {"number": 7})
    with pytest.raises(InvalidArgument):
        await client.answer_wait(wait.wait_id, {"number": "seven"})
    await client.answer_wait(wait.wait_id, {"number": 7})
    await client.answer_wait(wait.wait_id, {"number": 7})
    ended = await client.wait_for_run(run.run_id)
    assert ended.state == RunState.RUN_STATE_SUCCEEDED and '"answer": 7' in ended.result_json.replace(":7", ": 7")
    with pytest.raises(Conflict):
        await client.answer_wait(wait.wait_id, {"number": 8})

    async def counted() -> bool:  # they are written once a second
        return "asking" in {one.agent for one in await client.get_run_statistics()}

    await eventually(counted)
    state = await client.get_run_state(run.run_id)
    assert state.run.final_event.final and state.position.offset == state.run.final_event.cursor.offset


async def test_a_tool_is_called_once_its_user_has_said_yes_to_exactly_this(client: Client, stranger: Client) -> None:
    results = {}
    for approved in (True, False):
        call = {"tool": "post", "arguments": {"key": f"gateway-{approved}", "ask": True}}
        run = await client.start_run("consenting", call)
        wait = await the_wait(client, run.run_id)
        assert (wait.kind, wait.tool) == (WaitKind.WAIT_KIND_APPROVAL, "post")
        with pytest.raises(NotFound):
            await stranger.decide_wait(wait, approved=True)
        unseen = Wait(wait_id=wait.wait_id, arguments_digest="0" * 64)
        with pytest.raises(InvalidArgument):
            await client.decide_wait(unseen, approved=True)
        await client.decide_wait(wait, approved=approved)
        results[approved] = json.loads((await client.wait_for_run(run.run_id)).result_json)
    assert results == {True: {"result": {"posted": "gateway-True"}}, False: {"refused": "APPROVAL_DENIED"}}


async def test_the_same_over_http(system: System, ada: Person, client: Client) -> None:
    async with http_client(system, ada.token) as http:
        run = (
            await http.post("/v1/runs", json={"agent": "asking", "input": {"key": "http-input"}, "priority": 3})
        ).json()
        assert run["priority"] == 3
        await the_wait(client, run["run_id"])
        [wait] = (await http.get("/v1/waits", params={"run_id": run["run_id"], "state": "pending"})).json()["waits"]
        path = f"/v1/waits/{wait['wait_id']}/resolve"
        refused = await http.post(path, json={"answer": {"number": "seven"}})
        assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_ARGUMENT")
        assert (await http.post(path, json={"answer": {"number": 7}})).json()["state"] == "WAIT_STATE_RESOLVED"
        await client.wait_for_run(run["run_id"])
        again = await http.post(f"/v1/runs/{run['run_id']}/repeat", json={})
        assert (again.status_code, again.json()["repeats_run_id"]) == (201, run["run_id"])
        cancelled = await http.post(f"/v1/runs/{again.json()['run_id']}/cancel", json={"wait": "10s"})
        assert cancelled.json()["run"]["state"] in ("RUN_STATE_CANCELLED", "RUN_STATE_CANCELLING")
        steps = (await http.get(f"/v1/runs/{run['run_id']}/steps")).json()["steps"]
        assert all(step["run_id"] == run["run_id"] for step in steps)


async def test_a_run_that_is_over_is_repeated_and_one_that_is_not_is_cancelled_with_a_report(client: Client) -> None:
    run = await client.start_run("sleeper", SLEEPER)
    with pytest.raises(Conflict) as refusal:
        await client.repeat_run(run.run_id)
    assert refusal.value.reason == "RUN_NOT_OVER"
    done = await client.cancel_run_and_wait(run.run_id, "enough", timedelta(seconds=10))
    assert done.run.state == RunState.RUN_STATE_CANCELLED and not done.not_stopped
    again = await client.repeat_run(run.run_id, "request-of-a-repeat")
    assert (again.repeats_run_id, again.input_json) == (run.run_id, done.run.input_json)
    assert (await client.repeat_run(run.run_id, "request-of-a-repeat")).run_id == again.run_id
    await client.cancel_run(again.run_id)


async def test_a_run_begins_when_it_is_told_to(client: Client) -> None:
    run = await client.start_run("echo", {"text": "x"}, earliest_start_time=datetime.now(UTC) + timedelta(hours=1))
    assert run.state == RunState.RUN_STATE_QUEUED and run.HasField("earliest_start_time")
    with pytest.raises(ValueError, match="time zone"):
        await client.start_run("echo", {}, deadline=datetime.now())
    await client.cancel_run(run.run_id)


async def test_a_run_goes_on_as_long_as_somebody_watches_it(system: System, client: Client) -> None:
    """What would end in seconds is prolonged for an open stream, and for no other."""
    database = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:
        run, alone = [
            await client.start_run("sleeper", SLEEPER, on_disconnect=OnDisconnect.ON_DISCONNECT_CANCEL)
            for _ in range(2)
        ]
        await database.execute(
            "UPDATE execution.run SET follow_until = follow_until - interval '6 seconds' WHERE run_id = ANY($1)",
            [run.run_id, alone.run_id],
        )

        async def left(run_id: str) -> float:
            query = "SELECT extract(epoch FROM follow_until - now()) FROM execution.run WHERE run_id = $1"
            return float(await database.fetchval(query, run_id))

        async with aclosing(client.watch_run(run.run_id)) as events:
            await anext(events)

            async def prolonged() -> bool:
                return await left(run.run_id) > 6.0

            await eventually(prolonged)
            assert await left(alone.run_id) < 5.0
        for one in (run, alone):
            await client.cancel_run(one.run_id)
    finally:
        await database.close()


async def test_a_watcher_whose_credential_ends_is_told_so_before_the_run_is_cancelled(
    system: System, edge: grpc.aio.Channel, issuer: Issuer
) -> None:
    """The run ends with its followers, and who has no credential any more is none: the stream does not go on beside it."""
    good = issuer.token(sub="ada-of-a-short-time", tenant="tenant-of-a-short-time")
    async with Client(system.addresses["gateway"], good) as owner:
        run = await owner.start_run("sleeper", SLEEPER, on_disconnect=OnDisconnect.ON_DISCONNECT_CANCEL)
        # Clocks may differ by CLOCK_SKEW_SECONDS: for so long a token is good beyond its own time, and this one is in that while.
        now = int(time.time())
        short = issuer.token(
            sub="ada-of-a-short-time", tenant="tenant-of-a-short-time", iat=now - 60, exp=now + 3 - CLOCK_SKEW_SECONDS
        )
        gateway: rpc.GatewayServiceAsyncStub = rpc.GatewayServiceStub(edge)
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"):
            async for _ in gateway.WatchRun(pb.WatchRunRequest(run_id=run.run_id), metadata=bearer(short), timeout=60):
                pass
        assert (await owner.get_run(run.run_id)).state == RunState.RUN_STATE_RUNNING
        await owner.cancel_run(run.run_id)


async def test_schedules_are_made_paused_and_deleted_by_their_user_alone(client: Client, stranger: Client) -> None:
    made = await client.create_schedule(
        "30 7 * * MON-FRI", "echo", {"text": "x"}, time_zone="Europe/Vienna", request_id="r-1"
    )
    again = await client.create_schedule(
        "30 7 * * MON-FRI", "echo", {"text": "x"}, time_zone="Europe/Vienna", request_id="r-1"
    )
    assert again.schedule_id == made.schedule_id and made.HasField("next_time")
    assert (await client.pause_schedule(made.schedule_id)).paused
    assert not (await client.pause_schedule(made.schedule_id, paused=False)).paused
    assert [one.schedule_id async for one in client.list_schedules()] == [made.schedule_id]
    assert not [one async for one in stranger.list_schedules()]
    for call in (stranger.get_schedule, stranger.pause_schedule, stranger.delete_schedule):
        with pytest.raises(NotFound) as refusal:
            await call(made.schedule_id)
        assert refusal.value.reason == "SCHEDULE_NOT_FOUND"
    await client.delete_schedule(made.schedule_id)
    with pytest.raises(NotFound):
        await client.get_schedule(made.schedule_id)


async def test_an_administrator_administers_through_the_gateway(system: System) -> None:
    chief = await with_role(system, "admin")
    tenant = chief.tenant_id
    async with Client(system.addresses["gateway"], chief.token) as client:
        made = await client.admin.create_user(tenant, "newcomer", "power")
        assert "corpora.admin" in made.scopes
        key = await client.admin.create_api_key(tenant, "newcomer", "first")
        async with Client(system.addresses["gateway"], key.api_key) as newcomer:
            await newcomer.list_agents()
        limits = (await client.admin.get_limits(tenant, "newcomer")).set
        limits.running_runs = 2
        assert (await client.admin.set_limits(tenant, limits, "newcomer")).effective.running_runs == 2
        changed = await client.admin.update_user(tenant, "newcomer", removed_scopes=["tools.use"])
        assert "tools.use" not in changed.scopes and changed.role == "power"
        assert "newcomer" in [user.user_id async for user in client.admin.list_users(tenant, page_size=1)]
        await client.admin.revoke_api_key(tenant, "newcomer", key.api_key_id)
        policy = await client.admin.get_tool_policy()
        verdict = await client.admin.test_tool_policy("newcomer", "echo", {"text": "x"})
        assert policy.rules and verdict.rule_id
        assert isinstance(await client.admin.get_overall_run_statistics(), list)
        with pytest.raises(PermissionDenied):
            await client.admin.inspect_worker()
    overseer = await with_role(system, "super_admin")
    async with Client(system.addresses["gateway"], overseer.token) as client:
        worker = await client.admin.inspect_worker()
    async with http_client(system, overseer.token) as http:
        assert (await http.get("/v1/admin/worker")).json()["name"] == worker.name
    async with http_client(system, chief.token) as http:
        user = (await http.get(f"/v1/admin/tenants/{tenant}/users/newcomer")).json()
        assert (user["role"], user["removed_scopes"]) == ("power", ["tools.use"])
        path = f"/v1/admin/tenants/{tenant}/users/newcomer"
        assert (await http.patch(path, json={"disabled": True})).json()["disabled"]
        assert (await http.get(path)).json()["removed_scopes"] == ["tools.use"]
        revoked = await http.post(f"{path}/revocations", json={"kind": "session", "value": "session-1"})
        assert revoked.json()["kind"] == "REVOCATION_KIND_SESSION"
        await asyncio.gather(*(http.get(f"/v1/admin/{part}") for part in ("statistics", "tool-policy")))
