"""The gRPC face: bytes in, bytes out. Requests and answers are passed on unread; only WatchRun, made of two methods, is parsed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.policy.v1 import policy_pb2
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.call import Call, caller, current_call
from carrel_chassis.rpc.server import RpcServer
from carrel_gateway.admission import Admission
from carrel_gateway.backends import UNARY
from carrel_gateway.contexts import Contexts
from carrel_gateway.credentials import one_authorization
from carrel_gateway.methods import SERVICES
from carrel_gateway.operations import Operations
from carrel_gateway.reissue import Reissue


def connection_limits(most_connections: int, most_calls: int) -> list[tuple[str, int]]:
    """Options of a server that anybody can reach: a call that is begun and says nothing costs 20 KiB, with no credential at all."""
    return [("grpc.max_allowed_incoming_connections", most_connections), ("grpc.max_concurrent_streams", most_calls)]


class CredentialAuthenticator:
    """Proves callers by what is in `authorization`. What else they say of themselves, as in `user-context-bin`, is not looked at,
    and it goes no further: calls to the services behind carry metadata made here."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    async def authenticate(self, call: Call) -> None:
        """Sets the user and the signed context; raises UNAUTHENTICATED."""
        if call.policy.caller != policy_pb2.CALLER_CREDENTIAL:
            raise CarrelError(Kind.DENIED, "POLICY_MISSING", "This method has no policy and takes no calls.")
        given = [value for key, value in call.context.invocation_metadata() or () if key == "authorization"]
        asker = await self._contexts.of(one_authorization(given), _source(call.context.peer()))
        call.user = asker.user
        call.signed_context = asker.signed_context


def _source(peer: str) -> str:
    """The address in "ipv4:127.0.0.1:50000" or "ipv6:%5B::1%5D:50000", as HTTP names it; the port is another for each connection."""
    return peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D")


def add_gateway(operations: Operations, contexts: Contexts, admission: Admission, server: RpcServer) -> None:
    """Registers the gateway's services; each method goes through the server's layers like any other."""
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(_forwarding(operations, contexts, admission, name)) for name in UNARY
    }

    def subscribe(request: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        seconds = current_call().remaining_seconds()
        messages = _reissue(contexts).stream(lambda signed: operations.subscribe(request, signed, seconds))
        return admission.messages("Subscribe", caller(), messages)

    def watch_run(request: pb.WatchRunRequest, context: Any) -> AsyncGenerator[bytes, None]:
        seconds = current_call().remaining_seconds()
        reissue = _reissue(contexts)
        messages = reissue.stream(lambda signed: operations.watch_run(request, signed, seconds, reissue.current))
        return admission.messages("WatchRun", caller(), messages)

    def download_corpus(request: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        seconds = current_call().remaining_seconds()
        messages = _reissue(contexts).stream(lambda signed: operations.download_corpus(request, signed, seconds))
        return admission.messages("DownloadCorpus", caller(), messages)

    async def upload_corpus(parts: AsyncIterator[bytes], context: Any) -> bytes:
        call = current_call()
        with admission.call("UploadCorpus", caller()):
            return await operations.upload_corpus(parts, call.signed_context, call.remaining_seconds())

    handlers["Subscribe"] = grpc.unary_stream_rpc_method_handler(subscribe)
    handlers["WatchRun"] = grpc.unary_stream_rpc_method_handler(watch_run, pb.WatchRunRequest.FromString)
    handlers["DownloadCorpus"] = grpc.unary_stream_rpc_method_handler(download_corpus)
    handlers["UploadCorpus"] = grpc.stream_unary_rpc_method_handler(upload_corpus)
    for service in SERVICES:
        own = {method.name: handlers[method.name] for method in service.methods}
        server.add_registered_method_handlers(service.full_name, own)


def _reissue(contexts: Contexts) -> Reissue:
    call = current_call()
    return Reissue(contexts, call.metadata.get("authorization"), call.signed_context)


def _forwarding(
    operations: Operations, contexts: Contexts, admission: Admission, method: str
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def forward(request: bytes, context: Any) -> bytes:
        seconds = current_call().remaining_seconds()
        with admission.call(method, caller()):
            return await _reissue(contexts).call(lambda signed: operations.forward(method, request, signed, seconds))

    return forward
