"""The running system as tests use it: people with credentials, and channels as anybody."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from carrel.api.context.v1 import context_service_pb2 as context_pb
from carrel.api.context.v1 import context_service_pb2_grpc as context_rpc
from carrel.api.context.v1 import user_context_pb2
from carrel_chassis.identity import UserContext
from carrel_chassis.rpc.channel import Peer, open_channel
from carrel_chassis.signing import ServiceSigner, decode_context, read_key
from carrel_chassis.stack import Stack, StackSettings
from carrel_chassis.stack.development import Operator, development_token

ROOT = Path(__file__).resolve().parents[2]
REAL_TRACE = ROOT.parent / "shared" / "data" / "azure_llm_inference_2023_conv.csv"

LIVE_BYTES = 2 * 1024 * 1024
"""So few bytes of recent events are kept that streams often have to go back to the log."""

SERVICES = {"context": "context", "agent-execution": "execution", "tool-dispatch": "tools", "event-stream": "events"}
"""The address of each service by its identity."""


def test_settings(data_dir: Path, **changes: Any) -> StackSettings:
    """A stack with the agents and tools of the tests, on free ports. CARREL_TEST_ONLY=context,events starts a part of it."""
    only = os.environ.get("CARREL_TEST_ONLY")
    environment = {
        "PYTHONPATH": str(ROOT),
        "CARREL_AGENT_MODULES": ",".join(
            f"tests.support.{name}"
            for name in (
                "agents_under_test",
                "agents_of_isolation",
                "rogue_agents",
                "agents_that_wait",
                "agents_of_the_kit",
            )
        ),
        "CARREL_TOOL_MODULES": "tests.support.tools",
        "CARREL_TEST_EFFECTS": str(data_dir.parent / "effects"),
        "CARREL_WRONG_CREDENTIALS_PER_SECOND": "1000000",  # tests send thousands of them; one of them has a limit of its own
        "CARREL_LIVE_BYTES": str(LIVE_BYTES),
        **changes.pop("service_environment", {}),
    }
    defaults: dict[str, Any] = {
        "data_dir": data_dir,
        "fast": True,
        "only": tuple(only.split(",")) if only else None,
        "service_environment": environment,
    }
    return StackSettings(**{**defaults, **changes})


test_settings.__test__ = False  # type: ignore[attr-defined]


@dataclass
class Person:
    """A user of a tenant of their own, with what proves it."""

    tenant_id: str
    user_id: str
    signed_context: bytes
    token: str = field(repr=False)

    @property
    def context(self) -> UserContext:
        """What the signed context says."""
        return decode_context(user_context_pb2.SignedUserContext.FromString(self.signed_context).context)

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """For a call to a service: the user's context and nothing else."""
        return (("user-context-bin", self.signed_context),)

    @property
    def authorization(self) -> tuple[tuple[str, str | bytes], ...]:
        """For a call to the gateway."""
        return (("authorization", f"Bearer {self.token}"),)


class System:
    """One running stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.data_dir = stack.settings.data_dir
        self.addresses = stack.addresses
        self._operator = Operator(self.data_dir, self.addresses["context"])
        self._peers: dict[tuple[str, str], Peer] = {}
        self._edge: grpc.aio.Channel | None = None

    def peer(self, service: str, identity: str = "operator") -> Peer:
        """A channel to a service, with the key of any identity: "gateway", "agent-execution", "operator", ..."""
        if (service, identity) not in self._peers:
            signer = ServiceSigner(identity, read_key(self.data_dir / "keys" / f"{identity}.key"), time.time)
            self._peers[service, identity] = Peer(service, self.addresses[SERVICES[service]], signer)
        return self._peers[service, identity]

    @property
    def edge(self) -> grpc.aio.Channel:
        """A channel to the gateway, with no credential."""
        if self._edge is None:
            self._edge = open_channel(self.addresses["gateway"])
        return self._edge

    async def person(self, tenant_id: str | None = None, user_id: str | None = None) -> Person:
        """A new user, of a new tenant unless one is given."""
        tenant_id = tenant_id or f"tenant-{secrets.token_hex(6)}"
        user_id = user_id or f"user-{secrets.token_hex(6)}"
        signed = await self._operator.signed_context(tenant_id, user_id)
        return Person(tenant_id, user_id, signed, development_token(self.data_dir, tenant_id, user_id))

    async def api_key(self, person: Person) -> str:
        """A new API key of the person."""
        return await self._operator.create_api_key(person.tenant_id, person.user_id, "for a test")

    async def run_context(
        self, person: Person, run_id: str, *, agent: str = "echo", attempt: int = 1, thread_id: str = "thread-of-a-test"
    ) -> bytes:
        """The signed context of an attempt of a run, as agent-execution would get it."""
        peer = self.peer("context", "agent-execution")
        stub: context_rpc.ContextServiceAsyncStub = context_rpc.ContextServiceStub(peer.channel)
        request = context_pb.IssueRunContextRequest(
            grant=user_context_pb2.SignedUserContext.FromString(person.signed_context),
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            attempt=attempt,
        )
        answer = await stub.IssueRunContext(request, metadata=peer.metadata(), timeout=10.0)
        return answer.signed_context.SerializeToString(deterministic=True)

    def database_url(self, role: str, *, driver: str = "postgresql+asyncpg") -> str:
        """The address of the database as one of the roles, for tests that look below the services."""
        password = json.loads((self.data_dir / "secrets.json").read_text())[role]
        return f"{driver}://{role}:{password}@{self.addresses['postgres']}/carrel"

    async def close(self) -> None:
        """Closes the channels; the stack is its fixture's."""
        for peer in self._peers.values():
            await peer.close()
        await self._operator.close()
        if self._edge is not None:
            await self._edge.close()


def metadata_value(raw: bytes) -> str:
    """Bytes as they stand in the value of a `-bin` key."""
    return base64.b64encode(raw).decode()
