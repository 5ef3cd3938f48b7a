"""No handler of any RPC runs without a proved identity: the RPCs are walked from the descriptors, so a new one is covered unnamed."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module

import grpc
import pytest

import carrel.api
from carrel.api.policy.v1 import policy_pb2
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.rpc.policy import policies_of
from tests.support.expect import refused
from tests.support.forge import forgeries, genuine_signer, raw
from tests.support.system import SERVICES, Person, System

OWNERS = {
    "carrel.api.context.v1": "context",
    "carrel.api.runs.v1": "agent-execution",
    "carrel.api.tools.v1": "tool-dispatch",
    "carrel.api.events.v1": "event-stream",
    "carrel.api.gateway.v1": "gateway",
}
"""Which process serves a package."""


@dataclass(frozen=True)
class Method:
    """An RPC, from its descriptor."""

    path: str
    service: str
    policy: policy_pb2.MethodPolicy
    client_streaming: bool
    server_streaming: bool

    def __str__(self) -> str:
        return self.path.rpartition(".")[2]


def all_methods() -> Iterator[Method]:
    """Every RPC of every proto."""
    for module in pkgutil.walk_packages(carrel.api.__path__, "carrel.api."):
        if not module.name.endswith("_service_pb2"):
            continue
        file = import_module(module.name).DESCRIPTOR
        for service in file.services_by_name.values():
            policies = policies_of(service.full_name)
            for rpc in service.methods:
                path = f"/{service.full_name}/{rpc.name}"
                yield Method(path, OWNERS[file.package], policies[path], rpc.client_streaming, rpc.server_streaming)


METHODS = list(all_methods())
EITHER = policy_pb2.CALLER_USER_OR_SERVICE
USER_METHODS = [
    m for m in METHODS if m.policy.caller in (policy_pb2.CALLER_USER, policy_pb2.CALLER_SERVICE_FOR_USER, EITHER)
]
SERVICE_METHODS = [
    m for m in METHODS if m.policy.caller in (policy_pb2.CALLER_SERVICE, policy_pb2.CALLER_SERVICE_FOR_USER, EITHER)
]


async def call(address: str, method: Method, metadata: tuple[tuple[str, str | bytes], ...] = ()) -> None:
    """Makes the call with an empty request, as bytes; a stream is read to its first message."""
    channel = open_channel(address)
    try:
        if method.client_streaming:
            await channel.stream_unary(method.path)(iter([b""]), metadata=metadata, timeout=10)
        elif method.server_streaming:
            stream = channel.unary_stream(method.path)(b"", metadata=metadata, timeout=10)
            try:
                await anext(aiter(stream))
            finally:
                stream.cancel()
        else:
            await channel.unary_unary(method.path)(b"", metadata=metadata, timeout=10)
    finally:
        await channel.close()


def address_of(system: System, method: Method) -> str:
    return system.addresses[SERVICES.get(method.service, method.service)]


def test_every_method_has_a_policy_that_names_who_may_call() -> None:
    assert len(METHODS) >= 30
    for method in METHODS:
        assert method.policy.caller != policy_pb2.CALLER_UNSPECIFIED, method.path
        assert bool(method.policy.services) == (method in SERVICE_METHODS), method.path
        # Whoever may come with no more than a context needs a right for it.
        assert method.policy.scopes or method.policy.caller != EITHER, method.path
        assert (method.policy.caller == policy_pb2.CALLER_CREDENTIAL) == (method.service == "gateway"), method.path


@pytest.mark.parametrize("method", METHODS, ids=str)
async def test_an_anonymous_call_is_refused(system: System, method: Method) -> None:
    reason = {
        policy_pb2.CALLER_USER: "CONTEXT_MISSING",
        EITHER: "CONTEXT_MISSING",
        policy_pb2.CALLER_CREDENTIAL: "CREDENTIAL_MISSING",
    }.get(method.policy.caller, "SERVICE_IDENTITY_INVALID")
    with refused(grpc.StatusCode.UNAUTHENTICATED, reason):
        await call(address_of(system, method), method)


@pytest.mark.parametrize("method", USER_METHODS, ids=str)
async def test_every_wrong_context_is_refused_for_its_reason(system: System, ada: Person, method: Method) -> None:
    identity: tuple[tuple[str, str | bytes], ...] = ()
    if method.policy.services:
        identity = system.peer(method.service, method.policy.services[0]).metadata()
    for name, (context, reason) in forgeries(await genuine_signer(system), ada).items():
        code = grpc.StatusCode.PERMISSION_DENIED if reason == "AUDIENCE_MISMATCH" else grpc.StatusCode.UNAUTHENTICATED
        with refused(code, reason) as refusal:
            await call(address_of(system, method), method, (*identity, ("user-context-bin", context)))
        assert refusal.error.message, name


@pytest.mark.parametrize("method", [m for m in USER_METHODS if m.policy.scopes], ids=str)
async def test_a_context_without_the_scope_is_refused(system: System, ada: Person, method: Method) -> None:
    signer = await genuine_signer(system)
    identity: tuple[tuple[str, str | bytes], ...] = ()
    if method.policy.services:
        identity = system.peer(method.service, method.policy.services[0]).metadata()
    for scope in method.policy.scopes:
        # With the other scopes of the method, but not with this one.
        scopes = (ada.context.scopes | set(method.policy.scopes)) - {scope}
        poor = raw(signer.sign(replace(ada.context, scopes=scopes)))
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
            await call(address_of(system, method), method, (*identity, ("user-context-bin", poor)))


@pytest.mark.parametrize("method", [m for m in USER_METHODS if m.policy.run_context], ids=str)
async def test_a_session_context_does_not_pass_for_a_run(system: System, ada: Person, method: Method) -> None:
    identity = system.peer(method.service, method.policy.services[0]).metadata(ada.signed_context)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "RUN_CONTEXT_REQUIRED"):
        await call(address_of(system, method), method, identity)


@pytest.mark.parametrize("method", SERVICE_METHODS, ids=str)
async def test_a_service_without_business_here_is_refused(system: System, ada: Person, method: Method) -> None:
    outsiders = {"context", "agent-execution", "tool-dispatch", "event-stream", "gateway", "operator"}
    for outsider in sorted(outsiders - set(method.policy.services)):
        context = b"" if method.policy.caller == EITHER else ada.signed_context
        metadata = system.peer(method.service, outsider).metadata(context)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SERVICE_NOT_ALLOWED"):
            await call(address_of(system, method), method, metadata)


@pytest.mark.parametrize("method", SERVICE_METHODS, ids=str)
async def test_an_identity_made_for_another_service_is_refused(system: System, method: Method) -> None:
    elsewhere = next(name for name in SERVICES if name != method.service)
    replayed = system.peer(elsewhere, method.policy.services[0]).metadata()
    with refused(grpc.StatusCode.UNAUTHENTICATED, "SERVICE_IDENTITY_INVALID"):
        await call(address_of(system, method), method, replayed)


@pytest.mark.parametrize("method", [m for m in METHODS if m.service == "gateway"], ids=str)
async def test_the_gateway_takes_no_internal_identity(system: System, ada: Person, method: Method) -> None:
    """A stolen context, or the gateway's own service identity, opens nothing at the edge."""
    metadata = system.peer("agent-execution", "gateway").metadata(ada.signed_context)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"):
        await call(address_of(system, method), method, metadata)


@pytest.mark.parametrize("method", [m for m in METHODS if m.policy.caller == EITHER], ids=str)
async def test_a_service_lends_its_own_rights_to_no_user(system: System, ada: Person, method: Method) -> None:
    """With a context in the call it is the user who asks, whoever passes it on."""
    metadata = system.peer(method.service, "operator").metadata(ada.signed_context)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
        await call(address_of(system, method), method, metadata)
