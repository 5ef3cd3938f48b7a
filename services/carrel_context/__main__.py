"""The context service's process: from settings to serving, and back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from carrel.api.context.v1.context_service_pb2_grpc import add_ContextServiceServicer_to_server
from carrel.api.context.v1.directory_service_pb2_grpc import add_DirectoryServiceServicer_to_server
from carrel.api.context.v1.revocation_service_pb2_grpc import add_RevocationServiceServicer_to_server
from carrel.api.context.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from carrel.api.context.v1.thread_service_pb2_grpc import add_ThreadServiceServicer_to_server
from carrel_chassis.bus import open_bus
from carrel_chassis.db.engine import Engine
from carrel_chassis.db.open import cross_user_database, user_sessions
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, followed_revocations
from carrel_context.directory_servicer import DirectoryServicer
from carrel_context.inspector import Inspector
from carrel_context.keys import KeyStore
from carrel_context.limits import LimitOperations
from carrel_context.operations import Operations
from carrel_context.people import PeopleOperations
from carrel_context.revocation_servicer import RevocationServicer
from carrel_context.revocations import RevocationOperations, changes_in
from carrel_context.servicer import ContextServicer
from carrel_context.session_servicer import SessionServicer
from carrel_context.sessions import SessionOperations
from carrel_context.settings import ContextSettings
from carrel_context.thread_servicer import ThreadServicer
from carrel_context.threads import ThreadOperations


async def serve(settings: ContextSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "context")
        url = settings.database_url.get_secret_value()
        # The signing keys are no user's: an engine of their own, which binds none.
        keys = KeyStore(
            await stack.enter_async_context(cross_user_database(url, pool_size=1)),
            AESGCM(settings.read_master_key()),
            time.time,
            announce_seconds=settings.key_announce_seconds,
            rotation_seconds=settings.key_rotation_seconds,
        )
        await keys.open()
        sessions = await stack.enter_async_context(user_sessions(settings))
        bus = await stack.enter_async_context(open_bus(settings.nats_url.get_secret_value()))
        tenants = TenantDatabase(await _across(settings.admin_database_url, stack))
        all_revocations = await _across(settings.revocations_database_url, stack)
        revocations = await stack.enter_async_context(followed_revocations(changes_in(all_revocations), settings, bus))
        revoking = RevocationOperations(tenants, revocations, all_revocations, bus, settings.session_revocation_seconds)
        for work in (keys.keep(settings.key_poll_seconds), revoking.keep_clean()):
            stack.callback(asyncio.create_task(work).cancel)
        operations = Operations(
            sessions,
            keys,
            time.time,
            provision=settings.provision_users,
            grant_max_age_seconds=settings.grant_max_age_seconds,
            limits=settings.user_limits,
            tenant_limits=settings.tenant_limits,
        )
        people = PeopleOperations(tenants, revoking, settings.session_revocation_seconds)
        limits = LimitOperations(tenants, revoking, of_users=settings.user_limits, of_tenants=settings.tenant_limits)
        threads = ThreadOperations(sessions, settings.threads_per_user)
        server = RpcServer(settings, trust.authenticator(keys, revocations), revocations, trust.server_credentials())
        server.register(
            add_ContextServiceServicer_to_server,
            ContextServicer(operations, people, Inspector(keys, operations, time.time)),
        )
        server.register(add_RevocationServiceServicer_to_server, RevocationServicer(revoking))
        directory = DirectoryServicer(people, limits, trust.services.keys)
        server.register(add_DirectoryServiceServicer_to_server, directory)
        server.register(add_ThreadServiceServicer_to_server, ThreadServicer(threads))
        ending = SessionOperations(sessions, revoking, people)
        server.register(add_SessionServiceServicer_to_server, SessionServicer(ending))
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


async def _across(url: SecretStr, stack: AsyncExitStack) -> Engine:
    return await stack.enter_async_context(cross_user_database(url.get_secret_value()))


if __name__ == "__main__":
    run_service("context", ContextSettings, serve)
