"""TLS between services, over real gRPC with real certificates: who cannot show the right one is not heard."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.rpc.channel import Peer, open_channel
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.rpc.tls import LOOK_SECONDS, PeerTls
from carrel_chassis.signing import ServiceSigner, read_key
from carrel_chassis.trust import Trust
from tests.gateway.certificates import Authority
from tests.libs.chassis.test_layers import Echo, Keys, as_user, make_settings
from tests.libs.chassis.test_signing import context
from tests.support.expect import eventually, refused

CALLER, SERVER = "agent-execution", "event-stream"
LIST = pb.ListEventsRequest()


@dataclass
class Server:
    """A server of events that asks for certificates, and how it is called."""

    address: str
    folder: Path
    authority: Authority
    servicer: Echo

    def peer(self, tls: PeerTls | None) -> Peer:
        return Peer(SERVER, self.address, ServiceSigner(CALLER, read_key(self.folder / "service.key"), time.time), tls)


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tls(settings: dict[str, Path], clock: Callable[[], float] = time.monotonic) -> PeerTls:
    return PeerTls(settings["peer_ca_file"], settings["peer_cert_file"], settings["peer_key_file"], clock)


@asynccontextmanager
async def serving(folder: Path, *, named: str = SERVER) -> AsyncIterator[Server]:
    authority = Authority(folder)
    settings = make_settings(folder, **authority.issue(named, file="server"))
    trust = Trust(settings, SERVER)
    server = RpcServer(settings, trust.authenticator(Keys()), credentials=trust.server_credentials())
    servicer = Echo()
    server.register(rpc.add_EventServiceServicer_to_server, servicer)
    await server.start()
    try:
        yield Server(f"127.0.0.1:{server.port}", folder, authority, servicer)
    finally:
        await server.stop()


async def answered(peer: Peer) -> bool:
    stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(peer.channel)
    return (await stub.ListEvents(LIST, metadata=as_user(), timeout=5)).more


async def test_services_with_certificates_call_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        peer = server.peer(tls(server.authority.issue(CALLER)))
        assert await answered(peer)
        now = time.time()
        run = context(issue_time=now, expire_time=now + 60, run_id="run-1", agent="echo", attempt=1)
        stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(peer.channel)
        metadata = peer.metadata(as_user(run)[0][1])
        assert await stub.AppendEvents(pb.AppendEventsRequest(), metadata=metadata, timeout=5) is not None
        assert server.servicer.calls == 2
        await peer.close()


@pytest.mark.parametrize("how", ["in the open", "without one", "of another authority", "expired"])
async def test_a_caller_without_a_good_certificate_is_not_heard(tmp_path: Path, how: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    async with serving(tmp_path) as server:
        channels = {
            "in the open": lambda: open_channel(server.address),
            "without one": lambda: grpc.aio.secure_channel(
                server.address,
                grpc.ssl_channel_credentials(server.authority.file.read_bytes()),
                options=[("grpc.ssl_target_name_override", SERVER)],
            ),
            "of another authority": lambda: _believing(
                server, Authority(tmp_path / "elsewhere", "another").issue(CALLER)
            ),
            "expired": lambda: _believing(server, server.authority.issue(CALLER, days=-1)),
        }
        channel = channels[how]()
        stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.ListEvents(LIST, metadata=as_user(), timeout=5)
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
        assert server.servicer.calls == 0
        await channel.close()


def _believing(server: Server, own: dict[str, Path]) -> grpc.aio.Channel:
    """Shows `own`, and believes the server's authority: it is the server that must refuse."""
    return tls({**own, "peer_ca_file": server.authority.file}).channel(SERVER, server.address, [])


async def test_a_server_that_is_another_service_is_not_called(tmp_path: Path) -> None:
    async with serving(tmp_path, named="tool-dispatch") as server:
        peer = server.peer(tls(server.authority.issue(CALLER)))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await answered(peer)
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
        await peer.close()


async def test_a_service_cannot_be_another_than_its_certificate_says(tmp_path: Path) -> None:
    """A stolen service key is worth nothing without the certificate of that service."""
    async with serving(tmp_path) as server:
        peer = server.peer(tls(server.authority.issue("gateway")))
        stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(peer.channel)
        with refused(grpc.StatusCode.UNAUTHENTICATED, "SERVICE_IDENTITY_INVALID") as refusal:
            await stub.AppendEvents(pb.AppendEventsRequest(), metadata=peer.metadata(as_user()[0][1]), timeout=5)
        assert "certificate" in refusal.error.message
        await peer.close()


async def test_new_certificates_of_a_new_authority_are_taken_up_and_streams_go_on(tmp_path: Path) -> None:
    (tmp_path / "next").mkdir()
    async with serving(tmp_path) as server:
        clock = Clock()
        own = server.authority.issue(CALLER)
        peer = server.peer(tls(own, clock))
        stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(peer.channel)
        assert await answered(peer)
        stream = stub.Subscribe(pb.SubscribeRequest(), metadata=as_user())
        await anext(aiter(stream))

        following = Authority(tmp_path / "next")
        for names, file in ((CALLER, CALLER), (SERVER, "server")):
            issued = following.issue(names, file=file)
            for setting in ("peer_cert_file", "peer_key_file"):
                os.replace(issued[setting], tmp_path / issued[setting].name)
        os.replace(following.file, server.authority.file)
        clock.now += LOOK_SECONDS

        async def on_a_new_connection() -> bool:
            try:
                return await answered(peer)
            except grpc.aio.AioRpcError:
                return False

        await eventually(on_a_new_connection)
        old = _believing(server, own)  # the files hold the new ones: what was shown before is gone
        assert (await rpc.EventServiceStub(old).ListEvents(LIST, metadata=as_user(), timeout=5)).more
        await old.close()
        assert not stream.done()
        stream.cancel()
        await asyncio.wait_for(server.servicer.ended.wait(), 5)
        await peer.close()


async def test_a_change_that_does_not_fit_together_changes_nothing(tmp_path: Path) -> None:
    clock, authority = Clock(), Authority(tmp_path)
    own = authority.issue(CALLER)
    there = tls(own, clock)
    before, key = there.material(), own["peer_key_file"].read_bytes()
    authority.issue(CALLER)
    good = own["peer_key_file"].read_bytes()
    own["peer_key_file"].write_bytes(key)
    clock.now += LOOK_SECONDS
    assert there.material() is before
    own["peer_key_file"].write_bytes(good)
    clock.now += LOOK_SECONDS
    assert there.material() is not before


def test_settings_that_lack_a_part_or_name_nothing_are_refused(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue(CALLER)
    with pytest.raises(ValidationError, match="PEER_KEY_FILE go together"):
        make_settings(tmp_path, peer_ca_file=own["peer_ca_file"], peer_cert_file=own["peer_cert_file"])
    with pytest.raises(OSError, match="TLS between services cannot be set up"):
        tls({**own, "peer_ca_file": tmp_path / "absent"})


async def test_the_probe_speaks_tls_with_the_services_own_settings(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        own = {f"CARREL_PEER_{name}_FILE": str(tmp_path / file) for name, file in _FILES.items()}
        assert await _probe(server.address, own) == 0
        assert await _probe(server.address, {}) == 1
        assert await _probe(server.address, {**own, "CARREL_PEER_CERT_FILE": str(tmp_path / "absent")}) == 1


_FILES = {"CA": "authority.crt", "CERT": "server.crt", "KEY": "server.key"}


async def _probe(address: str, environment: dict[str, str]) -> int:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARREL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "carrel_chassis.probe",
        address,
        env={**inherited, **environment},
        stderr=subprocess.DEVNULL,
    )
    return await process.wait()
