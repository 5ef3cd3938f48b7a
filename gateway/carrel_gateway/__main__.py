"""The gateway's process: from settings to two faces over the same operations, and back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import httpx

from carrel_chassis.logs import get_logger
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, fetched_revocations
from carrel_gateway.admission import Admission
from carrel_gateway.backends import CONTEXT, EVENTS, EXECUTION, TOOLS, Backends
from carrel_gateway.contexts import Contexts
from carrel_gateway.credentials import Credentials, JwtChecker
from carrel_gateway.grpc_face import CredentialAuthenticator, add_gateway, connection_limits
from carrel_gateway.guessing import Guessing
from carrel_gateway.http_face.api import Api
from carrel_gateway.http_face.app import http_app
from carrel_gateway.http_face.health import Health
from carrel_gateway.http_face.server import HttpServer
from carrel_gateway.issuer_keys import DiscoveredKeys, IssuerKeys, JwksFile
from carrel_gateway.operations import Operations
from carrel_gateway.settings import DEVELOPMENT_ISSUER, GatewaySettings
from carrel_gateway.tls import EdgeTls


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serves both faces until `stop` is set, then drains both."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "gateway")
        addresses = {
            CONTEXT: settings.context_address,
            EXECUTION: settings.execution_address,
            TOOLS: settings.tools_address,
            EVENTS: settings.events_address,
        }
        peers = {name: trust.peer(name, address) for name, address in addresses.items()}
        for peer in peers.values():
            stack.push_async_callback(peer.close)
        # No bus at the edge: what is polled for here once a second, the services behind know at once.
        revocations = await stack.enter_async_context(fetched_revocations(trust, settings, None))
        credentials = Credentials(await jwt_checker(settings, stack))
        guessing = Guessing(settings.limits(), settings.wrong_credentials_per_second, time.monotonic)
        contexts = Contexts(peers[CONTEXT], credentials, trust.clock, revocations, guessing)
        backends = Backends(peers)
        operations = Operations(backends, trust.clock, settings.upload_max_bytes)

        tls = edge_tls(settings, stack)
        server = RpcServer(
            settings,
            CredentialAuthenticator(contexts),
            credentials=tls.grpc_credentials() if tls else None,
            options=connection_limits(settings.grpc_connections, settings.connection_calls),
            identity_first=True,
        )
        server.report(revocations)
        admission = Admission(settings.limits(), time.monotonic)
        add_gateway(operations, contexts, admission, server)
        api = Api(operations, contexts, admission, settings.default_deadline_seconds, settings.stream_max_age_seconds)
        app = http_app(api, Health(backends, peers.values()), contexts, settings.cors_origins)
        http = HttpServer(
            app,
            settings.http_listen,
            settings.drain_seconds,
            on_end=stop.set,
            most_connections=settings.http_connections,
            head_seconds=settings.http_head_seconds,
            tls=tls.http_context if tls else None,
        )
        http.start()
        stack.push_async_callback(http.stop)
        await server.start()
        get_logger().info("gateway.serving", port=server.port, http_port=http.port)
        await stop.wait()
        backends.end_streams()
        await asyncio.gather(server.stop(), http.stop())


def edge_tls(settings: GatewaySettings, stack: AsyncExitStack) -> EdgeTls | None:
    """The certificate of both faces, when one is set, kept fresh until the end of the stack."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    tls = EdgeTls(settings.tls_cert_file, settings.tls_key_file)
    stack.callback(asyncio.create_task(tls.keep_fresh()).cancel)
    return tls


async def jwt_checker(settings: GatewaySettings, stack: AsyncExitStack) -> JwtChecker | None:
    """What checks JWTs, when an issuer is set; raises OSError when its keys cannot be read."""
    if not settings.jwts:
        return None
    if settings.jwt_issuer == DEVELOPMENT_ISSUER:
        get_logger().warning(
            "gateway.development_issuer",
            issuer=settings.jwt_issuer,
            message="Whoever can read this machine's data folder can be any user; set JWT_ISSUER to a real one in production.",
        )
    keys = await issuer_keys(settings, stack)
    return JwtChecker(keys, settings.jwt_issuer, settings.jwt_audience, settings.jwt_tenant_claim, settings.jwt_tenants)


async def issuer_keys(settings: GatewaySettings, stack: AsyncExitStack) -> IssuerKeys:
    """The issuer's keys from where the settings say; those over HTTP are fetched beside the start, which does not wait."""
    if settings.jwks_file is not None:
        return JwksFile(settings.jwks_file, time.monotonic)
    http = await stack.enter_async_context(httpx.AsyncClient())
    keys = DiscoveredKeys(settings.jwt_issuer, http, time.monotonic)
    stack.callback(asyncio.create_task(keys.keep_fresh()).cancel)
    return keys


if __name__ == "__main__":
    run_service("gateway", GatewaySettings, serve)
