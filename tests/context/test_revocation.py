"""What is revoked is refused by every service within two seconds, whatever is under way, and whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest

from carrel import Client
from carrel.api.context.v1 import revocation_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2, event_service_pb2_grpc
from carrel.api.runs.v1.run_pb2 import RunState
from carrel.api.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from carrel_chassis.errors import CarrelError
from tests.support.expect import eventually, refused
from tests.support.follow import following
from tests.support.revoking import (
    RUN,
    SCOPE,
    SESSION,
    USER,
    end_of_stream,
    probes,
    refusal_of,
    restore,
    revocations,
    revoke,
    started,
)
from tests.support.system import Person, System

WITHIN_SECONDS = 2.0


@asynccontextmanager
async def client_of(system: System, person: Person) -> AsyncIterator[Client]:
    async with Client(system.addresses["gateway"], person.token) as client:
        yield client


async def states(system: System, person: Person) -> dict[str, str]:
    """The states of a person's runs, as the database has them: whoever is revoked cannot ask."""
    connection = await asyncpg.connect(system.database_url("carrel_execution_runner", driver="postgresql"))
    try:
        rows = await connection.fetch("SELECT run_id, state FROM run WHERE user_id = $1", person.user_id)
    finally:
        await connection.close()
    return {row["run_id"]: row["state"] for row in rows}


async def test_a_revoked_user_is_refused_everywhere_within_two_seconds(system: System, ada: Person) -> None:
    calls = probes(system, ada)
    for probe in calls.values():
        await probe()
    begin = time.monotonic()
    await revoke(system, ada)
    answers = await asyncio.gather(*map(refusal_of, calls.values()))
    for service, (moment, error) in zip(calls, answers, strict=True):
        assert error.reason == "CONTEXT_REVOKED", (service, error.message)
        assert moment - begin < WITHIN_SECONDS, service
        assert error.metadata["revoked"] == "user"


async def test_a_revoked_session_leaves_the_users_other_sessions_alone(system: System, ada: Person) -> None:
    other = await system.person(ada.tenant_id, ada.user_id)
    await revoke(system, ada, SESSION, ada.context.session_id)
    for service, probe in probes(system, ada).items():
        if service != "gateway":  # the token is of a third session
            assert (await refusal_of(probe))[1].reason == "CONTEXT_REVOKED"
    for probe in probes(system, other).values():
        await probe()


async def test_a_revoked_scope_is_taken_out_of_the_users_contexts(system: System, ada: Person) -> None:
    calls = probes(system, ada)
    await calls["tool-dispatch"]()
    await revoke(system, ada, SCOPE, "tools.use")
    _, error = await refusal_of(calls["tool-dispatch"])
    assert (error.reason, error.metadata["scope"]) == ("SCOPE_MISSING", "tools.use")
    await calls["event-stream"]()
    assert "tools.use" not in (await system.person(ada.tenant_id, ada.user_id)).context.scopes
    await restore(system, ada, SCOPE, "tools.use")
    await eventually(lambda: succeeds(calls["tool-dispatch"]), seconds=WITHIN_SECONDS)


async def succeeds(probe: Any) -> bool:
    try:
        await probe()
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_nobody_else_is_touched(system: System, ada: Person, eve: Person) -> None:
    namesake = await system.person(eve.tenant_id, ada.user_id)
    await revoke(system, ada)
    await refusal_of(probes(system, ada)["event-stream"])
    for person in (eve, namesake):
        for probe in probes(system, person).values():
            await probe()


async def test_what_was_issued_before_stays_refused_after_a_restoration(system: System, ada: Person) -> None:
    await revoke(system, ada)
    with pytest.raises(CarrelError) as refusal:
        await system.person(ada.tenant_id, ada.user_id)
    assert refusal.value.reason == "CONTEXT_REVOKED"
    await restore(system, ada)
    again = await system.person(ada.tenant_id, ada.user_id)
    for probe in probes(system, again).values():
        await eventually(lambda probe=probe: succeeds(probe), seconds=WITHIN_SECONDS)  # type: ignore[misc]
    assert (await refusal_of(probes(system, ada)["event-stream"]))[1].reason == "CONTEXT_REVOKED"


async def test_a_revoked_run_gets_no_further_context(system: System, ada: Person) -> None:
    context = await system.run_context(ada, "run-of-a-revocation")
    metadata = system.peer("event-stream", "agent-execution").metadata(context)
    await revoke(system, ada, RUN, "run-of-a-revocation")
    with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
        await system.run_context(ada, "run-of-a-revocation")
    stub = event_service_pb2_grpc.EventServiceStub(system.peer("event-stream", "agent-execution").channel)
    _, error = await refusal_of(lambda: stub.ListEvents(event_service_pb2.ListEventsRequest(), metadata=metadata))
    assert error.reason == "CONTEXT_REVOKED"
    await system.run_context(ada, "another-run")


async def test_an_open_stream_ends_with_a_reason_and_the_last_position(system: System, ada: Person) -> None:
    async with client_of(system, ada) as client:
        run = await client.start_run("echo", {"text": "hello"})
        async for _ in client.watch_run(run.run_id):
            pass
    opened = asyncio.Event()
    reading = asyncio.create_task(end_of_stream(system, ada, opened))
    await opened.wait()
    begin = time.monotonic()
    await revoke(system, ada)
    moment, error, position = await reading
    assert moment - begin < WITHIN_SECONDS
    assert error.reason == "CONTEXT_REVOKED"
    assert error.metadata["offset"] == str(position.offset) and position.offset >= 5
    assert error.metadata["epoch"] == str(position.epoch)


async def test_a_stream_at_the_gateway_ends_with_the_same_reason_and_position(system: System, ada: Person) -> None:
    stream = system.edge.unary_stream("/carrel.api.gateway.v1.GatewayService/Subscribe")(
        b"", metadata=ada.authorization, timeout=30
    )
    await anext(aiter(stream))
    await revoke(system, ada)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED") as refusal:
        async for _ in stream:
            pass
    assert {"epoch", "offset"} <= refusal.error.metadata.keys()


async def test_runs_of_a_revoked_user_end_each_with_one_final_event(system: System, ada: Person) -> None:
    """Four run (as many as may), the others wait; the first of them waits in a tool."""
    async with client_of(system, ada) as client:
        in_a_tool = await started(
            client, "caller", {"tool": "sleep", "arguments": {"seconds": 60}}, RunState.RUN_STATE_RUNNING
        )
        running = [await started(client, "sleeper", {"seconds": 60}, RunState.RUN_STATE_RUNNING) for _ in range(3)]
        queued = [(await client.start_run("sleeper", {"seconds": 60})).run_id for _ in range(3)]
    begin = time.monotonic()
    await revoke(system, ada)

    async def all_ended() -> bool:
        return set((await states(system, ada)).values()) == {"CANCELLED"}

    await eventually(all_ended, seconds=WITHIN_SECONDS)
    assert time.monotonic() - begin < WITHIN_SECONDS
    await restore(system, ada)
    again = await system.person(ada.tenant_id, ada.user_id)
    await eventually(lambda: succeeds(probes(system, again)["event-stream"]), seconds=WITHIN_SECONDS)
    async with following(system, again) as [follower]:
        await follower.until_final(in_a_tool, *running, *queued)
        follower.check()
        assert {event.type for event in follower.events if event.final} == {"run_cancelled"}


async def test_a_running_tool_is_cancelled(system: System, ada: Person) -> None:
    context = await system.run_context(ada, f"run-{secrets.token_hex(8)}")
    peer = system.peer("tool-dispatch", "agent-execution")
    stub = tool_service_pb2_grpc.ToolServiceStub(peer.channel)
    request = tool_service_pb2.ExecuteToolRequest(step_id="step-1", tool="sleep", arguments_json='{"seconds": 60}')
    execution = asyncio.ensure_future(stub.ExecuteTool(request, metadata=peer.metadata(context), timeout=50))
    await asyncio.sleep(0.2)
    begin = time.monotonic()
    await revoke(system, ada)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
        await execution
    assert time.monotonic() - begin < WITHIN_SECONDS


async def test_versions_are_dense_and_a_repeat_is_safe(system: System, ada: Person) -> None:
    stub, metadata = revocations(system)
    before = (await stub.ListRevocations(pb.ListRevocationsRequest(), metadata=metadata)).version
    versions = [(await revoke(system, ada)).version for _ in range(3)]
    assert versions == [before + 1, before + 2, before + 3]
    answer = await stub.ListRevocations(pb.ListRevocationsRequest(after_version=before), metadata=metadata)
    assert [(change.user_id, change.version) for change in answer.revocations] == [(ada.user_id, before + 3)]


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        (pb.REVOCATION_KIND_UNSPECIFIED, "", "kind"),
        (USER, "something", "value"),
        (SESSION, "", "value"),
        (SESSION, " none ", "value"),
        (RUN, "x" * 1_000_000, "value"),
        (SCOPE, "everything", "value"),
    ],
)
async def test_a_wrong_request_names_its_field(system: System, ada: Person, kind: Any, value: str, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await revoke(system, ada, kind, value)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (raised.value.details() or "")


async def test_nothing_that_is_not_revoked_is_restored(system: System, ada: Person) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "REVOCATION_NOT_FOUND"):
        await restore(system, ada)
