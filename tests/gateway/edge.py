"""The edge as tests use it: every operation of both faces by name, tokens of any kind, and replicas with settings of their own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from google.protobuf.duration_pb2 import Duration

from carrel.api.context.v1.revocation_service_pb2 import REVOCATION_KIND_SESSION
from carrel.api.gateway.v1 import admin_service_pb2 as admin_pb
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel_chassis.signing import read_key
from carrel_chassis.stack.ports import free_ports
from carrel_gateway import methods
from carrel_gateway.__main__ import serve
from carrel_gateway.http_face.paths import OPERATIONS
from carrel_gateway.settings import GatewaySettings
from tests.support.expect import eventually
from tests.support.system import System

METHODS = sorted(methods.METHODS)

REQUESTS: dict[str, Any] = {
    "StartRun": pb.StartRunRequest(request_id="request-of-a-test", agent="echo", input_json='{"text":"hello"}'),
    "GetRun": pb.GetRunRequest(run_id="run-of-a-test"),
    "CancelRun": pb.CancelRunRequest(run_id="run-of-a-test"),
    "WatchRun": pb.WatchRunRequest(run_id="run-of-a-test"),
    "RepeatRun": pb.RepeatRunRequest(request_id="request-of-a-test", run_id="run-of-a-test"),
    "ListSteps": pb.ListStepsRequest(run_id="run-of-a-test"),
    "GetRunState": pb.GetRunStateRequest(run_id="run-of-a-test"),
    "ResolveWait": pb.ResolveWaitRequest(wait_id="wait-of-a-test", answer_json="1"),
    "CreateSchedule": pb.CreateScheduleRequest(
        request_id="request-of-a-test", cron="30 7 * * *", agent="echo", input_json='{"text":"hello"}'
    ),
    "GetSchedule": pb.GetScheduleRequest(schedule_id="schedule-of-a-test"),
    "PauseSchedule": pb.PauseScheduleRequest(schedule_id="schedule-of-a-test", paused=True),
    "DeleteSchedule": pb.DeleteScheduleRequest(schedule_id="schedule-of-a-test"),
    "GetTool": pb.GetToolRequest(tool="tool-of-a-test"),
    "CancelTool": pb.CancelToolRequest(tool_call_id="call-of-a-test", wait=Duration(nanos=100_000_000)),
    "TestToolPolicy": admin_pb.TestToolPolicyRequest(user_id="user-of-a-test", tool="echo"),
    "EndSession": pb.EndSessionRequest(session_id="session-that-is-none"),
    "GetUpload": pb.GetUploadRequest(upload_id="upload-of-a-test"),
    "DownloadCorpus": pb.DownloadCorpusRequest(name="corpus-of-a-test"),
    "GetCorpus": pb.GetCorpusRequest(name="corpus-of-a-test"),
    "CreateThread": pb.CreateThreadRequest(request_id="request-of-a-test", title="a thread"),
    "GetThread": pb.GetThreadRequest(thread_id="thread-of-a-test"),
    "RenameThread": pb.RenameThreadRequest(thread_id="thread-of-a-test", title="another"),
    "DeleteThread": pb.DeleteThreadRequest(thread_id="thread-of-a-test"),
    "DeleteCorpus": pb.DeleteCorpusRequest(name="corpus-of-a-test"),
    "UploadCorpus": pb.UploadCorpusRequest(header=pb.UploadHeader(name="corpus-of-a-test", media_type="text/csv")),
    "CreateTenant": admin_pb.CreateTenantRequest(tenant_id="tenant-of-a-test"),
    "CreateUser": admin_pb.CreateUserRequest(tenant_id="tenant-of-a-test", user_id="user-of-a-test"),
    "GetUser": admin_pb.GetUserRequest(tenant_id="tenant-of-a-test", user_id="user-of-a-test"),
    "ListUsers": admin_pb.ListUsersRequest(tenant_id="tenant-of-a-test"),
    "UpdateUser": admin_pb.UpdateUserRequest(tenant_id="tenant-of-a-test", user_id="user-of-a-test", role="power"),
    "CreateApiKey": admin_pb.CreateApiKeyRequest(tenant_id="tenant-of-a-test", user_id="user-of-a-test"),
    "ListApiKeys": admin_pb.ListApiKeysRequest(tenant_id="tenant-of-a-test", user_id="user-of-a-test"),
    "RevokeApiKey": admin_pb.RevokeApiKeyRequest(
        tenant_id="tenant-of-a-test", user_id="user-of-a-test", api_key_id="key-of-a-test"
    ),
    "GetLimits": admin_pb.GetLimitsRequest(tenant_id="tenant-of-a-test"),
    "SetLimits": admin_pb.SetLimitsRequest(tenant_id="tenant-of-a-test"),
    "Revoke": admin_pb.RevokeRequest(
        tenant_id="tenant-of-a-test", user_id="user-of-a-test", kind=REVOCATION_KIND_SESSION, value="session-of-a-test"
    ),
    "Restore": admin_pb.RestoreRequest(
        tenant_id="tenant-of-a-test", user_id="user-of-a-test", kind=REVOCATION_KIND_SESSION, value="session-of-a-test"
    ),
}
"""A request that makes sense, for methods whose empty one does not."""

HTTP = [
    *((one.verb, re.sub(r"{(\w+?)(_id)?}", r"\1-of-a-test", one.path)) for one in OPERATIONS),
    ("GET", "/v1/no-such-path"),
]
"""Every operation of the HTTP face, with ids that nobody has, and a path that is none."""


async def call(channel: grpc.aio.Channel, method: str, metadata: Any = (), request: bytes | None = None) -> bytes:
    """Makes a call as bytes; of a stream it returns the first message."""
    descriptor = methods.METHODS[method]
    path = f"/{descriptor.containing_service.full_name}/{method}"
    encoded = REQUESTS[method].SerializeToString() if request is None and method in REQUESTS else request or b""
    answer: bytes
    if descriptor.client_streaming:
        answer = await channel.stream_unary(path)(iter([encoded]), metadata=metadata, timeout=10)
    elif descriptor.server_streaming:
        stream = channel.unary_stream(path)(encoded, metadata=metadata, timeout=10)
        try:
            answer = await anext(aiter(stream))
        finally:
            stream.cancel()
    else:
        answer = await channel.unary_unary(path)(encoded, metadata=metadata, timeout=10)
    return answer


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata with a credential."""
    return (("authorization", f"Bearer {token}"),)


@dataclass(frozen=True)
class Issuer:
    """The development issuer of a system, which signs anything that a test asks for."""

    folder: Path

    @property
    def key(self) -> Any:
        return read_key(self.folder / "dev-issuer.key")

    @property
    def key_id(self) -> str:
        return str(json.loads((self.folder / "jwks.json").read_text())["keys"][0]["kid"])

    @property
    def public_x(self) -> str:
        """The public key as its JWK says it."""
        return str(json.loads((self.folder / "jwks.json").read_text())["keys"][0]["x"])

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good claims with changes; None removes one."""
        now = int(time.time())
        good = {
            "iss": "carrel-development",
            "aud": "carrel",
            "sub": "user-of-a-test",
            "tenant": "tenant-of-a-test",
            "sid": "session-of-a-test",
            "iat": now,
            "exp": now + 600,
        }
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token with good claims and these changes, signed with the issuer's key."""
        return jwt.encode(
            self.claims(**changes), self.key, "EdDSA", headers={"kid": self.key_id} if headers is None else headers
        )


def issuer_of(system: System) -> Issuer:
    return Issuer(system.data_dir / "keys")


def http_client(system: System, token: str = "", address: str = "") -> httpx.AsyncClient:
    """A client of the HTTP face, with a credential or none."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(
        base_url=f"http://{address or system.addresses['gateway_http']}", headers=headers, timeout=15
    )


@dataclass(frozen=True)
class Replica:
    """Another gateway, in this process."""

    address: str
    http_address: str
    stop: asyncio.Event
    serving: asyncio.Task[None]


@asynccontextmanager
async def replica(system: System, address: str = "", http_address: str = "", **changes: Any) -> AsyncIterator[Replica]:
    """A replica with the shared system's services behind it; `changes` are settings."""
    environment = system.stack.service_environment("gateway")
    told = {name.removeprefix("CARREL_").lower(): value for name, value in environment.items()}
    one, two = free_ports(2)
    address, http_address = address or f"127.0.0.1:{one}", http_address or f"127.0.0.1:{two}"
    own = {"listen": address, "http_listen": http_address, "metrics_listen": "", "drain_seconds": 2}
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(GatewaySettings(**{**told, **own, **changes}), stop))
    try:
        await _until_up(serving, address)
        yield Replica(address, http_address, stop, serving)
    finally:
        stop.set()
        await serving


async def _until_up(serving: asyncio.Task[None], address: str) -> None:
    """Until the gRPC face takes connections, with TLS or without."""
    host, _, port = address.rpartition(":")

    async def up() -> bool:
        if serving.done():
            await serving  # raises why it did not start
        try:
            _, sink = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        sink.close()
        return True

    await eventually(up)


@dataclass
class Sent:
    """A server-sent event as a browser understands it."""

    id: str = ""
    event: str = ""
    data: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.data)


async def server_sent(response: httpx.Response) -> AsyncIterator[Sent]:
    """The events of a stream; `id` is the last one seen, as in the browser. Comments and bare ids are no events."""
    last_id = ""
    current = Sent()
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            last_id = line[4:]
        elif line.startswith("event: "):
            current.event = line[7:]
        elif line.startswith("data: "):
            current.data += line[6:]
        elif not line:
            if current.data:
                current.id = last_id
                yield current
            current = Sent()


def chunks(count: int, size: int) -> Iterator[bytes]:
    return (b"x" * size for _ in range(count))


__all__ = [
    "HTTP",
    "METHODS",
    "REQUESTS",
    "Issuer",
    "Replica",
    "Sent",
    "bearer",
    "call",
    "chunks",
    "eventually",
    "http_client",
    "issuer_of",
    "replica",
    "server_sent",
]
