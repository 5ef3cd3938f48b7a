"""Tool-dispatch as its callers have it: a client for each person, and processes of its own for tests that kill or limit it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest_asyncio

from carrel.api.context.v1 import user_context_pb2
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel.api.tools.v1 import tool_service_pb2_grpc as rpc
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.signing import ServiceSigner, decode_context, read_key
from carrel_chassis.stack.ports import free_ports
from tests.support.forge import genuine_signer, raw
from tests.support.system import Person, System

Code = grpc.StatusCode
CSV = b"name,amount\nann,1\nbob,2\ncleo,\ndan,x\n"


class Desk:
    """What one person can ask of tool-dispatch, within a run where that is needed."""

    def __init__(self, system: System, person: Person, peer: Peer) -> None:
        self.system = system
        self.person = person
        self.peer = peer
        self.run_id = f"run-{secrets.token_hex(6)}"
        self.tools: rpc.ToolServiceAsyncStub = rpc.ToolServiceStub(peer.channel)
        self.corpora: rpc.CorpusServiceAsyncStub = rpc.CorpusServiceStub(peer.channel)
        self._contexts: dict[Any, bytes] = {}

    async def run_metadata(self, attempt: int = 1, scopes: tuple[str, ...] | None = None) -> Any:
        """As agent-execution calls for a run; `scopes` replaces those of the person."""
        key = (self.run_id, attempt, scopes)
        if key not in self._contexts:
            signed = await self.system.run_context(self.person, self.run_id, attempt=attempt)
            if scopes is not None:
                context = decode_context(user_context_pb2.SignedUserContext.FromString(signed).context)
                signer = await genuine_signer(self.system)
                signed = raw(signer.sign(replace(context, scopes=frozenset(scopes))))
            self._contexts[key] = signed
        return self.peer.metadata(self._contexts[key])

    async def execute(
        self,
        tool: str,
        step: str = "1",
        *,
        attempt: int = 1,
        scopes: tuple[str, ...] | None = None,
        approval: pb.Approval | None = None,
        **arguments: Any,
    ) -> pb.ExecuteToolResponse:
        """ExecuteTool as it answers."""
        request = pb.ExecuteToolRequest(
            step_id=step, tool=tool, arguments_json=json.dumps(arguments), approval=approval
        )
        metadata = await self.run_metadata(attempt, scopes)
        return await self.tools.ExecuteTool(request, metadata=metadata, timeout=60)

    async def result(self, tool: str, step: str = "", **arguments: Any) -> Any:
        """The result of a tool in a step of its own."""
        answer = await self.execute(tool, step or secrets.token_hex(8), **arguments)
        return json.loads(answer.result_json)

    async def upload(self, name: str, *chunks: bytes, media_type: str = "text/csv") -> Any:
        """UploadCorpus; returns the corpus."""
        header = pb.UploadCorpusRequest(header=pb.UploadHeader(name=name, media_type=media_type))
        messages = [header, *(pb.UploadCorpusRequest(chunk=chunk) for chunk in chunks)]
        call = self.corpora.UploadCorpus(iter(messages), metadata=self.person.metadata, timeout=60)
        return (await call).corpus

    async def names(self) -> list[str]:
        """ListCorpora, the names."""
        answer = await self.corpora.ListCorpora(pb.ListCorporaRequest(), metadata=self.person.metadata)
        return [corpus.name for corpus in answer.corpora]

    async def calls(self, **filters: Any) -> list[Any]:
        """ListToolCalls, one page."""
        request = pb.ListToolCallsRequest(**filters)
        answer = await self.tools.ListToolCalls(request, metadata=self.person.metadata)
        return list(answer.tool_calls)

    def files(self) -> list[str]:
        """All files of all users, those on their way included."""
        folder = self.system.stack.service_environment("tools")["CARREL_CORPUS_DIR"]
        return sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)


@pytest_asyncio.fixture
async def desk(system: System, ada: Person) -> Desk:
    """Ada's."""
    return Desk(system, ada, system.peer("tool-dispatch", "agent-execution"))


@pytest_asyncio.fixture
async def other(system: System, eve: Person) -> Desk:
    """Eve's, of another tenant."""
    return Desk(system, eve, system.peer("tool-dispatch", "agent-execution"))


class OwnProcess:
    """A tool-dispatch of its own on the shared database, with other settings; it may be killed."""

    def __init__(self, process: asyncio.subprocess.Process, peer: Peer) -> None:
        self.process = process
        self.peer = peer

    async def kill(self) -> None:
        """As a power failure would."""
        self.process.kill()
        await self.process.wait()


@pytest_asyncio.fixture
async def own_process(system: System) -> AsyncIterator[Callable[..., Any]]:
    """`await own_process(TOOL_DEADLINE_SECONDS="1")` starts one; it is gone after the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: str) -> OwnProcess:
            (port, metrics) = free_ports(2)
            changes = {"LISTEN": f"127.0.0.1:{port}", "METRICS_LISTEN": f"127.0.0.1:{metrics}", **settings}
            environment = system.stack.service_environment("tools")
            environment |= {f"CARREL_{name}": value for name, value in changes.items()}
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "carrel_tools", env=environment)
            key = read_key(system.data_dir / "keys" / "agent-execution.key")
            peer = Peer("tool-dispatch", f"127.0.0.1:{port}", ServiceSigner("agent-execution", key, time.time))
            own = OwnProcess(process, peer)
            stack.push_async_callback(process.wait)
            stack.callback(lambda: process.returncode is None and process.kill())
            stack.push_async_callback(peer.close)
            await asyncio.wait_for(peer.channel.channel_ready(), 20)
            return own

        yield start
