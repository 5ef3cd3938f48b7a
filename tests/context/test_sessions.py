"""Sessions: the ways in that a user has used are listed, and ended for good, by their own user alone."""

from __future__ import annotations

import grpc
import pytest

from carrel import Client
from carrel.api.context.v1 import session_service_pb2 as pb
from carrel.api.context.v1 import session_service_pb2_grpc as rpc
from carrel.api.context.v1.session_pb2 import SESSION_KIND_API_KEY, SESSION_KIND_TOKEN
from carrel.errors import NotFound, Unauthenticated
from carrel_chassis.stack.development import development_token
from carrel_context.api_keys import parse_api_key
from tests.support.expect import eventually, refused
from tests.support.system import Person, System


def sessions(system: System) -> rpc.SessionServiceAsyncStub:
    stub: rpc.SessionServiceAsyncStub = rpc.SessionServiceStub(system.peer("context").channel)
    return stub


async def ended(client: Client) -> bool:
    """Whether the client's credential is refused now."""
    try:
        await client.list_agents()
    except Unauthenticated as error:
        assert error.reason in ("CONTEXT_REVOKED", "CREDENTIAL_INVALID")
        return True
    return False


async def test_every_way_in_is_a_session(system: System, ada: Person) -> None:
    key = await system.api_key(ada)
    address = system.addresses["gateway"]
    async with Client(address, ada.token) as by_token, Client(address, key) as by_key:
        before = {session.session_id async for session in by_token.list_sessions(page_size=1)}
        await by_key.list_agents()
        found = {session.session_id: session async for session in by_token.list_sessions(page_size=1)}
        [added] = found.keys() - before
        assert (added, found[added].kind) == (parse_api_key(key).api_key_id, SESSION_KIND_API_KEY)
        [current] = [session for session in found.values() if session.current]
        assert current.kind == SESSION_KIND_TOKEN and not current.ended
        assert current.create_time.ToDatetime() <= current.last_seen_time.ToDatetime()


async def test_a_session_that_was_ended_is_refused_and_others_go_on(system: System, ada: Person) -> None:
    address = system.addresses["gateway"]
    other_token = development_token(system.data_dir, ada.tenant_id, ada.user_id)
    async with Client(address, ada.token) as one, Client(address, other_token) as other:
        await one.list_agents()
        [current] = [session async for session in other.list_sessions() if session.current]
        await one.end_session(current.session_id)
        await one.end_session(current.session_id)
        await eventually(lambda: ended(other), seconds=5)
        await one.list_agents()
        states = {session.session_id: session.ended async for session in one.list_sessions()}
        assert states[current.session_id] and sum(states.values()) == 1


async def test_an_api_key_ends_with_its_session(system: System, ada: Person) -> None:
    address, key = system.addresses["gateway"], await system.api_key(ada)
    async with Client(address, ada.token) as owner, Client(address, key) as by_key:
        [own] = [session async for session in by_key.list_sessions() if session.current]
        await by_key.end_session(own.session_id)
        await eventually(lambda: ended(by_key), seconds=5)
        await owner.list_agents()


async def test_another_user_neither_sees_nor_ends_a_session(system: System, ada: Person, eve: Person) -> None:
    address = system.addresses["gateway"]
    colleague = await system.person(ada.tenant_id)
    async with Client(address, ada.token) as client:
        [own] = [session async for session in client.list_sessions() if session.current]
        for other in (eve, colleague):
            async with Client(address, other.token) as thief:
                assert own.session_id not in {session.session_id async for session in thief.list_sessions()}
                with pytest.raises(NotFound) as one:
                    await thief.end_session(own.session_id)
                with pytest.raises(NotFound) as none:
                    await thief.end_session("session-that-never-was")
                assert one.value.reason == none.value.reason == "SESSION_NOT_FOUND"
        await client.list_agents()


async def test_wrong_requests_are_refused(system: System, ada: Person) -> None:
    stub = sessions(system)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID"):
        await stub.EndSession(pb.EndSessionRequest(session_id="none"), metadata=ada.metadata, timeout=5)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await stub.ListSessions(pb.ListSessionsRequest(page_token="elsewhere"), metadata=ada.metadata, timeout=5)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await stub.ListSessions(pb.ListSessionsRequest(page_size=201), metadata=ada.metadata, timeout=5)
