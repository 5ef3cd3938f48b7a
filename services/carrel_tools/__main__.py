"""The process of tool-dispatch: from settings to serving, and back."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from carrel.api.tools.v1.policy_service_pb2_grpc import add_ToolPolicyServiceServicer_to_server
from carrel.api.tools.v1.tool_service_pb2_grpc import (
    add_CorpusServiceServicer_to_server,
    add_ToolServiceServicer_to_server,
)
from carrel_chassis.bus import open_bus
from carrel_chassis.db.open import cross_user_database, user_sessions
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.ids import new_id
from carrel_chassis.logs import get_logger
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.sandbox.level import Level, probe
from carrel_chassis.trust import Trust, fetched_keys, fetched_revocations
from carrel_tools.admission import Admission
from carrel_tools.audit import Audit
from carrel_tools.cancel_requests import CancelRequests
from carrel_tools.cancelling import Cancelling
from carrel_tools.corpora import CorpusLimits, CorpusOperations
from carrel_tools.corpus_check import CorpusCheck
from carrel_tools.corpus_servicer import CorpusServicer
from carrel_tools.corpus_store import open_store
from carrel_tools.desk import Desks
from carrel_tools.in_flight import InFlight
from carrel_tools.keyring import KeyRing
from carrel_tools.limits import Slots, Turns
from carrel_tools.pace import Meter, Pace
from carrel_tools.policies import Policies, changes_in, followed_policies
from carrel_tools.policy_admin import PolicyOperations
from carrel_tools.policy_servicer import ToolPolicyServicer
from carrel_tools.retention import LedgerRetention, UploadRetention, keep_clean
from carrel_tools.sandbox.sandbox import Sandbox
from carrel_tools.servicer import ToolServicer
from carrel_tools.settings import ToolsSettings
from carrel_tools.tool_calls import ToolCallOperations
from carrel_tools.tool_sources import sandboxed_modules
from carrel_tools.tool_system import BUILT_IN, load_classes
from carrel_tools.web import Web, allowed_hosts

_DAY_SECONDS = 24 * 3600.0


async def serve(settings: ToolsSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "tool-dispatch")
        classes = load_classes(settings.tool_modules)
        providers = (classes,)
        store = open_store(settings.corpus_dir, settings.corpus_store)
        keys = await stack.enter_async_context(fetched_keys(trust, settings.context_address))
        bus = await stack.enter_async_context(open_bus(settings.nats_url.get_secret_value()))
        revocations = await stack.enter_async_context(fetched_revocations(trust, settings, bus))
        sessions = await stack.enter_async_context(user_sessions(settings))
        keeper = await stack.enter_async_context(cross_user_database(settings.keeper_database_url.get_secret_value()))
        tenants = TenantDatabase(
            await stack.enter_async_context(cross_user_database(settings.admin_database_url.get_secret_value()))
        )
        policies = Policies(changes_in(keeper), BUILT_IN, time.monotonic, settings.policy_stale_seconds)
        await stack.enter_async_context(followed_policies(policies, settings.policy_poll_seconds, bus))
        for what, retention in (
            ("tool_call", LedgerRetention(keeper, settings.ledger_keep_days * _DAY_SECONDS)),
            ("corpus_upload", UploadRetention(keeper, store, _DAY_SECONDS)),
        ):
            stack.callback(asyncio.create_task(keep_clean(what, retention, settings.clean_seconds)).cancel)
        turns = Turns(settings.sql_processes, settings.user_sql_processes, settings.user_sandbox_memory_mb)
        standing = await asyncio.to_thread(probe, Level(settings.sandbox_level))
        get_logger().info("sandbox.level", level=int(standing.level), missing=standing.missing)
        sandbox = Sandbox(turns, standing, settings.sql_memory_mb, sandboxed_modules(classes))
        stack.push_async_callback(sandbox.close)
        await sandbox.start()
        limits = CorpusLimits(settings.corpus_max_bytes, settings.corpus_user_bytes, settings.corpus_user_count)
        check = CorpusCheck(sandbox)
        key_ring = KeyRing(settings.read_corpus_keys())
        uploads = Slots("uploads", settings.user_uploads)
        corpora = CorpusOperations(sessions, store, key_ring, check, limits, uploads)
        web = Web(allowed_hosts(settings.http_hosts, settings.http_private_hosts), settings.http_max_bytes)
        in_flight = InFlight()
        cancel_requests = CancelRequests(keeper, in_flight, bus)
        await stack.enter_async_context(cancel_requests.followed())
        calls = ToolCallOperations(
            sessions,
            Admission(sessions, policies, providers, approval_seconds=settings.approval_seconds),
            Desks(corpora, check, sandbox, web),
            Slots("tool_calls", settings.user_tool_calls),
            Pace(keeper),
            cpu_seconds=Meter(keeper, "tool_cpu_seconds", settings.user_tool_cpu_seconds, parts=1000),
            moved_bytes=Meter(keeper, "tool_bytes", settings.user_tool_bytes),
            in_flight=in_flight,
            holder=new_id("process"),
            deadline_seconds=settings.tool_deadline_seconds,
        )
        cancelling = Cancelling(sessions, Slots("tool_cancels", settings.user_tool_calls), cancel_requests.announce)
        server = RpcServer(settings, trust.authenticator(keys, revocations), revocations, trust.server_credentials())
        server.register(add_ToolServiceServicer_to_server, ToolServicer(calls, cancelling))
        server.register(add_CorpusServiceServicer_to_server, CorpusServicer(corpora))
        context = trust.peer("context", settings.context_address)
        stack.push_async_callback(context.close)
        policy_operations = PolicyOperations(tenants, policies, providers, bus)
        policy_servicer = ToolPolicyServicer(policy_operations, Audit(sessions, tenants), context)
        server.register(add_ToolPolicyServiceServicer_to_server, policy_servicer)
        await server.start()
        for level in Level:  # "sandbox.2" is SERVING when the machine shuts in as far as that
            await server.set_part_serving(f"sandbox.{int(level)}", level <= standing.level)
        stack.push_async_callback(server.stop)
        await stop.wait()


if __name__ == "__main__":
    run_service("tools", ToolsSettings, serve)
