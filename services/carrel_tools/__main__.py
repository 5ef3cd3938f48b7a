"""The process of tool-dispatch: from settings to serving, and back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from carrel.api.tools.v1.tool_service_pb2_grpc import (
    add_CorpusServiceServicer_to_server,
    add_ToolServiceServicer_to_server,
)
from carrel_chassis.bus import open_bus
from carrel_chassis.db.open import user_sessions
from carrel_chassis.ids import new_id
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, fetched_keys, fetched_revocations
from carrel_tools.corpora import CorpusLimits, CorpusOperations
from carrel_tools.corpus_files import CorpusFiles
from carrel_tools.desk import Desks
from carrel_tools.limits import Slots, Turns
from carrel_tools.sandbox.sandbox import Sandbox
from carrel_tools.servicer import CorpusServicer, ToolServicer
from carrel_tools.settings import ToolsSettings
from carrel_tools.tool_calls import ToolCallOperations
from carrel_tools.tool_system import load_classes


async def serve(settings: ToolsSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "tool-dispatch")
        classes = load_classes(settings.tool_modules)
        files = CorpusFiles(settings.corpus_dir)
        files.open()
        keys = await stack.enter_async_context(fetched_keys(trust, settings.context_address))
        bus = await stack.enter_async_context(open_bus(settings.nats_url.get_secret_value()))
        revocations = await stack.enter_async_context(fetched_revocations(trust, settings, bus))
        sessions = await stack.enter_async_context(user_sessions(settings))
        sandbox = Sandbox(Turns(settings.sql_processes, settings.user_sql_processes), settings.sql_memory_mb)
        stack.push_async_callback(sandbox.close)
        await sandbox.start()
        limits = CorpusLimits(settings.corpus_max_bytes, settings.corpus_user_bytes, settings.corpus_user_count)
        corpora = CorpusOperations(sessions, files, sandbox, limits, Slots("uploads", settings.user_uploads))
        calls = ToolCallOperations(
            sessions,
            classes,
            Desks(corpora, files, sandbox),
            Slots("tool_calls", settings.user_tool_calls),
            holder=new_id("process"),
            deadline_seconds=settings.tool_deadline_seconds,
        )
        server = RpcServer(settings, trust.authenticator(keys, revocations), revocations)
        server.register(add_ToolServiceServicer_to_server, ToolServicer(calls))
        server.register(add_CorpusServiceServicer_to_server, CorpusServicer(corpora))
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


if __name__ == "__main__":
    run_service("tools", ToolsSettings, serve)
