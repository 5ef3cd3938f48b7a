"""The gateway's process: from settings to two faces over the same operations, and back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from carrel_chassis.logs import get_logger
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, fetched_revocations
from carrel_gateway.backends import CONTEXT, EVENTS, EXECUTION, TOOLS, Backends
from carrel_gateway.contexts import Contexts
from carrel_gateway.credentials import Credentials, JwksFile, JwtChecker
from carrel_gateway.grpc_face import CredentialAuthenticator, add_gateway
from carrel_gateway.http_face.api import Api
from carrel_gateway.http_face.app import http_app
from carrel_gateway.http_face.health import Health
from carrel_gateway.http_face.server import HttpServer
from carrel_gateway.operations import Operations
from carrel_gateway.settings import DEVELOPMENT_ISSUER, GatewaySettings


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
        contexts = Contexts(peers[CONTEXT], Credentials(jwt_checker(settings)), trust.clock, revocations)
        backends = Backends(peers)
        operations = Operations(backends, trust.clock)

        server = RpcServer(settings, CredentialAuthenticator(contexts))
        add_gateway(operations, contexts, server)
        api = Api(operations, contexts, settings.default_deadline_seconds, settings.stream_max_age_seconds)
        app = http_app(api, Health(backends, peers.values()), contexts)
        http = HttpServer(app, settings.http_listen, settings.drain_seconds, on_end=stop.set)
        http.start()
        stack.push_async_callback(http.stop)
        await server.start()
        get_logger().info("gateway.serving", port=server.port, http_port=http.port)
        await stop.wait()
        backends.end_streams()
        await asyncio.gather(server.stop(), http.stop())


def jwt_checker(settings: GatewaySettings) -> JwtChecker | None:
    """What checks JWTs, when an issuer is set; raises OSError when its keys cannot be read."""
    if settings.jwks_file is None:
        return None
    if settings.jwt_issuer == DEVELOPMENT_ISSUER:
        get_logger().warning(
            "gateway.development_issuer",
            issuer=settings.jwt_issuer,
            message="Whoever can read this machine's data folder can be any user; set JWT_ISSUER to a real one in production.",
        )
    keys = JwksFile(settings.jwks_file, time.monotonic)
    return JwtChecker(keys, settings.jwt_issuer, settings.jwt_audience, settings.jwt_tenant_claim)


if __name__ == "__main__":
    run_service("gateway", GatewaySettings, serve)
