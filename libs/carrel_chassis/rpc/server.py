"""The server of a service: its handlers within the chain of layers, health, reflection, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.revocations import Revocations
from carrel_chassis.rpc.access_log import AccessLog
from carrel_chassis.rpc.call import Call, Handler
from carrel_chassis.rpc.deadline import Deadline
from carrel_chassis.rpc.error_mask import ErrorMask
from carrel_chassis.rpc.identity import Authenticator, Identity
from carrel_chassis.rpc.layer import Layer, compose
from carrel_chassis.rpc.policy import policies_of
from carrel_chassis.rpc.standing import Standing
from carrel_chassis.rpc.telemetry import Telemetry
from carrel_chassis.settings import ServiceSettings

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
REVOCATIONS_HEALTH = "revocations"
"""The name under which the health service says whether this process knows of all revocations."""

_OPTIONS = [
    # grpc.aio shares a busy port silently otherwise: two servers would each get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    # Idle clients may ask whether we live every 10 s; more often is a flood.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
]


def chain(
    settings: ServiceSettings, authenticator: Authenticator, revocations: Revocations | None = None
) -> list[Layer]:
    """The layers around every call, outermost first, and why they stand in this order."""
    layers = [
        AccessLog(),  # sees every call, the refused ones too, with the code that left
        Telemetry(),  # measures all that follows
        ErrorMask(),  # turns what the rest raises into a status
        Deadline(
            settings.default_deadline_seconds, settings.stream_max_age_seconds
        ),  # covers identity too: a key may be fetched
        Identity(authenticator),  # no handler runs, and no request is parsed, before it has let the call through
    ]
    if revocations is not None:
        layers.append(Standing(revocations))  # innermost: ends what Identity has let through when that no longer holds
    return layers


class RpcServer:
    """A gRPC server in the making, then serving."""

    def __init__(
        self,
        settings: ServiceSettings,
        authenticator: Authenticator,
        revocations: Revocations | None = None,
        credentials: grpc.ServerCredentials | None = None,
        options: Sequence[tuple[str, int]] = (),
        *,
        identity_first: bool = False,
    ) -> None:
        """With `identity_first` a handler does not wait for the request either: who sends none is refused all the same, or timed out.
        For a server that anybody can reach; it costs a little."""
        self.stopping = asyncio.Event()
        """Set when the server drains; streams watch it and end themselves."""
        self.port = 0
        self._settings = settings
        self._layers = chain(settings, authenticator, revocations)
        self._revocations = revocations
        self._fail_closed = settings.revocation_fail_closed
        self._saying: set[asyncio.Task[None]] = set()
        self._credentials = credentials
        self._server = grpc.aio.server(options=[*_OPTIONS, *options])
        self._health = health_aio.HealthServicer()
        self._services: list[str] = []
        self._identity_first = identity_first

    def report(self, revocations: Revocations) -> None:
        """Says by the health service whether all revocations are known, and ends no call: for the gateway, whose streams end with those
        behind them, which know the last position."""
        self._revocations = revocations

    def register(self, add_to_server: Callable[[Any, Any], None], servicer: Any) -> None:
        """Registers a servicer by its generated `add_...Servicer_to_server`, which finds in this object what it calls."""
        add_to_server(servicer, self)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Called by generated code beside the next one, with the same handlers; one of the two is enough."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Registers a service's methods within the chain. Called by generated code."""
        policies = policies_of(service)
        wrapped = {}
        for name, handler in handlers.items():
            path = f"/{service}/{name}"
            wrapped[name] = self._wrap(path, policies[path], handler)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        self._services.append(service)

    def _wrap(self, path: str, policy: Any, handler: Any) -> Any:
        call_method = compose(self._layers, _innermost(handler, self._identity_first))
        streaming, stopping = handler.response_streaming, self.stopping

        async def behaviour(request: Any, context: Any) -> Any:
            metadata = dict(context.invocation_metadata() or ())
            call = Call(path, policy, request, context, metadata, secrets.token_hex(8), streaming, stopping)
            return await call_method(call)

        factory: Callable[..., Any] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming or self._identity_first, streaming]
        # No deserializer: the request is parsed by the innermost handler, after the caller has proved who it is.
        return factory(
            behaviour, request_deserializer=None, response_serializer=_serialized_once(handler.response_serializer)
        )

    async def start(self) -> None:
        """Binds the address and serves; raises OSError with a sentence when the port is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*self._services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        try:
            self.port = (
                self._server.add_insecure_port(self._settings.listen)
                if self._credentials is None
                else self._server.add_secure_port(self._settings.listen, self._credentials)
            )
        except RuntimeError:
            raise OSError(
                f"{self._settings.listen} is in use; stop what listens there or choose another port."
            ) from None
        await self._server.start()
        await self.set_serving(True)
        if self._revocations is not None:
            self._revocations.on_stale(self._say_stale)
            await self._say_fresh(not self._revocations.stale)

    def _say_stale(self, stale: bool) -> None:
        task = asyncio.create_task(self._say_fresh(not stale))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def _say_fresh(self, fresh: bool) -> None:
        """Says by the health service "revocations" whether they are known to be all; of the process, when it then refuses every call."""
        await self._health.set(REVOCATIONS_HEALTH, _serving(fresh))
        if self._fail_closed:
            await self.set_serving(fresh)

    async def set_serving(self, serving: bool) -> None:
        """Says by the health service whether calls make sense now, for the whole process and for each service in it."""
        for name in ("", *self._services):
            await self._health.set(name, _serving(serving))

    async def set_part_serving(self, part: str, serving: bool) -> None:
        """Says the same of something that the process stands on, under a name of its own; calls make sense without it."""
        await self._health.set(part, _serving(serving))

    async def stop(self) -> None:
        """Drains: health says no, streams end themselves with their cursor, calls in flight may finish."""
        await self._health.enter_graceful_shutdown()
        self.stopping.set()
        await self._server.stop(self._settings.drain_seconds)


def _serving(serving: bool) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
    return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING


def _innermost(handler: Any, still_to_come: bool) -> Handler:
    """Parses the request, calls the servicer's method, and writes the messages of a stream. A request that is `still_to_come` is the
    first message of a stream: on the wire there is no difference."""
    parse = handler.request_deserializer

    async def received(call: Call) -> bytes:
        request: bytes = await _first(call.request) if still_to_come else call.request
        return request

    async def unary(call: Call) -> Any:
        return await handler.unary_unary(_parsed(parse, await received(call)), call.context)

    async def server_stream(call: Call) -> None:
        write = call.context.write
        responses = handler.unary_stream(_parsed(parse, await received(call)), call.context)
        try:
            async for response in responses:
                await write(response)
        finally:
            # Python does not promise when a generator that was left is closed; its finally blocks hold subscriptions.
            await responses.aclose()

    async def client_stream(call: Call) -> Any:
        requests = (_parsed(parse, request) async for request in call.request)
        return await handler.stream_unary(requests, call.context)

    if handler.unary_unary is not None:
        return unary
    return server_stream if handler.unary_stream is not None else client_stream


async def _first(requests: AsyncIterator[bytes]) -> bytes:
    async for request in requests:
        return request
    raise CarrelError(Kind.INVALID, "MALFORMED_REQUEST", "The call ended without a request.")


def _serialized_once(serialize: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Lets bytes pass as they are: a servicer that sends the same to many serializes it itself, once."""
    return lambda message: message if isinstance(message, bytes) else serialize(message)


def _parsed(parse: Callable[[bytes], Any] | None, request: bytes) -> Any:
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError:
        raise CarrelError(
            Kind.INVALID, "MALFORMED_REQUEST", "The request is not the message that this method takes."
        ) from None


__all__: Sequence[str] = ["MAX_MESSAGE_BYTES", "RpcServer", "chain"]
