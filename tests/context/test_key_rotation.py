"""Signing keys rotate and not one valid call is refused; at most two are active; what has retired verifies grants alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel.api.context.v1 import user_context_pb2
from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.stack import Stack
from carrel_context.keys import OVERLAP_SECONDS, KeyPlan, KeyStore
from carrel_context.repository import StoredKey
from tests.support.expect import refused
from tests.support.revoking import probes
from tests.support.system import System, test_settings

ANNOUNCE_SECONDS = 2.0


def key(name: str, sign_time: float) -> StoredKey:
    return StoredKey(name, b"", b"", sign_time)


def test_a_key_is_announced_signs_verifies_and_retires() -> None:
    plan = KeyPlan([key("old", 0.0), key("new", 1000.0)])

    def at(now: float) -> tuple[str, list[str]]:
        return plan.signing(now).key_id, [key.key_id for key in plan.active(now)]

    assert at(999.0) == ("old", ["new", "old"])
    assert at(1000.0) == ("new", ["new", "old"])
    assert at(1000.0 + OVERLAP_SECONDS) == ("new", ["new", "old"])
    assert at(1001.0 + OVERLAP_SECONDS) == ("new", ["new"])


def test_the_overlap_outlives_every_context_by_the_worst_of_clocks() -> None:
    assert OVERLAP_SECONDS >= 300 + 2 * 30


@pytest_asyncio.fixture(scope="module")
async def rotating(tmp_path_factory) -> AsyncIterator[System]:
    settings = test_settings(
        tmp_path_factory.mktemp("rotating") / "data",
        service_environment={"CARREL_KEY_ANNOUNCE_SECONDS": str(ANNOUNCE_SECONDS)},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def listed(system: System) -> Any:
    peer = system.peer("context")
    stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
    return (await stub.ListSigningKeys(pb.ListSigningKeysRequest(), metadata=peer.metadata(), timeout=5)).keys


async def test_a_rotation_under_load_refuses_no_valid_call(rotating: System) -> None:
    """Users come, keep calling, and are replaced by new ones, while the key changes."""
    made, signers, over = 0, set(), asyncio.Event()

    async def use() -> None:
        nonlocal made
        while not over.is_set():
            person = await rotating.person()
            signers.add(user_context_pb2.SignedUserContext.FromString(person.signed_context).key_id)
            for _ in range(5):
                for probe in probes(rotating, person).values():
                    await probe()  # an AioRpcError ends the test
                    made += 1

    users = [asyncio.create_task(use()) for _ in range(8)]
    old = await rotating.person()
    await asyncio.sleep(0.5)
    peer = rotating.peer("context")
    stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
    answer = await stub.RotateSigningKeys(pb.RotateSigningKeysRequest(), metadata=peer.metadata(), timeout=5)
    assert answer.key.sign_time.ToMicroseconds() / 1e6 > time.time() + ANNOUNCE_SECONDS - 1
    await asyncio.sleep(ANNOUNCE_SECONDS + 1.5)
    over.set()
    await asyncio.gather(*users)
    assert len(signers) == 2, "both keys have signed"
    for probe in probes(rotating, old).values():
        await probe()  # signed by the old key, and good as long as it lives
    keys = await listed(rotating)
    assert keys[0].key_id == answer.key.key_id and len(keys) == 2
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "ROTATION_TOO_SOON") as refusal:
        await stub.RotateSigningKeys(pb.RotateSigningKeysRequest(), metadata=peer.metadata(), timeout=5)
    assert refusal.error.retry_seconds and refusal.error.retry_seconds > 300
    print(f"\n{made} calls during a rotation of the signing key, 0 refused")
    assert made > 500


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


async def test_replicas_agree_and_a_retired_key_verifies_grants_alone(rotating: System) -> None:
    """Two replicas rotate at the same moment by schedule: one key is made. Its predecessor retires and loses its private half."""
    url = rotating.database_url("postgres", driver="postgresql")
    admin = await asyncpg.connect(url)
    rows = await admin.fetch("SELECT * FROM context.signing_key")
    await admin.execute("DELETE FROM context.signing_key")
    engine = cross_user_engine(rotating.database_url("carrel_context"), 4)
    cipher, clock = AESGCM(os.urandom(32)), Clock()
    try:
        stores = [KeyStore(engine, cipher, clock, announce_seconds=90, rotation_seconds=1000) for _ in range(2)]
        await asyncio.gather(*(store.open() for store in stores))
        [first] = stores[0].active()
        assert stores[1].active() == [first]
        clock.now += 2000
        await asyncio.gather(*(store._rotate(store._due) for store in stores))
        for store in stores:
            await store.refresh()
            assert len(store.active()) == 2
            assert store.signer.key_id == first.key_id
        clock.now += 91
        assert stores[0].signer.key_id == stores[1].signer.key_id != first.key_id
        assert await stores[0].get(first.key_id) is not None
        clock.now += OVERLAP_SECONDS + 1
        for store in stores:
            assert await store.get(first.key_id) is None
            assert await store.of_grants().get(first.key_id) is not None
        await stores[0]._destroy_retired()
        kept = await admin.fetch("SELECT key_id FROM context.signing_key WHERE private_key_encrypted <> ''")
        assert [row["key_id"] for row in kept] == [stores[0].signer.key_id]
        again = KeyStore(engine, cipher, clock, announce_seconds=90, rotation_seconds=1000)
        await again.open()
        assert await again.of_grants().get(first.key_id) is not None
    finally:
        await engine.dispose()
        await admin.execute("DELETE FROM context.signing_key")
        await admin.copy_records_to_table(
            "signing_key", schema_name="context", records=[tuple(row.values()) for row in rows]
        )
        await admin.close()
