"""The context service's process: from settings to serving, and back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from carrel.api.context.v1.context_service_pb2_grpc import add_ContextServiceServicer_to_server
from carrel_chassis.db.open import cross_user_database, user_sessions
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust
from carrel_context.keys import open_key_store, read_master_key
from carrel_context.operations import Operations
from carrel_context.servicer import ContextServicer
from carrel_context.settings import ContextSettings


async def serve(settings: ContextSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "context")
        url = settings.database_url.get_secret_value()
        # The signing keys are no user's: they are read once, on an engine that is gone before the first call comes.
        async with cross_user_database(url, pool_size=1) as engine:
            keys = await open_key_store(engine, read_master_key(settings.master_key_file))
        sessions = await stack.enter_async_context(user_sessions(settings))
        operations = Operations(
            sessions,
            keys,
            time.time,
            provision=settings.provision_users,
            grant_max_age_seconds=settings.grant_max_age_seconds,
        )
        server = RpcServer(settings, trust.authenticator(keys))
        server.register(add_ContextServiceServicer_to_server, ContextServicer(operations))
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


if __name__ == "__main__":
    run_service("context", ContextSettings, serve)
