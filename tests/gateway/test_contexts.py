"""The context of a credential: asked for once, shared, renewed before it ends, and never kept for long."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.signing import CLOCK_SKEW_SECONDS, ServiceSigner, read_key
from carrel_chassis.stack.development import development_token
from carrel_chassis.stack.ports import free_ports
from carrel_gateway.contexts import Contexts
from carrel_gateway.credentials import Credentials, JwtChecker
from carrel_gateway.issuer_keys import JwksFile
from tests.support.system import Person, System


class Clock:
    """The real time, and what a test adds to it."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def contexts(system: System, clock: Clock, peer: Peer | None = None, **changes: Any) -> Contexts:
    keys = JwksFile(system.data_dir / "keys" / "jwks.json", time.monotonic)
    credentials = Credentials(JwtChecker(keys, "carrel-development", "carrel", "tenant"))
    return Contexts(peer or system.peer("context", "gateway"), credentials, clock, **changes)


async def test_calls_at_the_same_time_share_one_question(system: System, ada: Person) -> None:
    found = contexts(system, Clock())
    askers = await asyncio.gather(*(found.of(f"Bearer {ada.token}") for _ in range(20)))
    assert len({asker.user.context_id for asker in askers}) == 1
    assert askers[0].user.owner == (ada.tenant_id, ada.user_id)


async def test_a_caller_that_leaves_does_not_take_the_answer_along(system: System, ada: Person) -> None:
    found = contexts(system, Clock())
    first = asyncio.create_task(found.of(f"Bearer {ada.token}"))
    second = asyncio.create_task(found.of(f"Bearer {ada.token}"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).user.user_id == ada.user_id


async def test_a_context_is_renewed_a_minute_before_it_ends(system: System, ada: Person) -> None:
    clock = Clock()
    found = contexts(system, clock)
    first = await found.of(f"Bearer {ada.token}")
    assert first.user.expire_time - first.user.issue_time <= 300
    clock.ahead = 235
    assert (await found.of(f"Bearer {ada.token}")) is first
    clock.ahead = 245
    assert (await found.of(f"Bearer {ada.token}")).user.context_id != first.user.context_id


async def test_users_never_share_a_context(system: System, ada: Person, eve: Person) -> None:
    found = contexts(system, Clock())
    askers = await asyncio.gather(*(found.of(f"Bearer {p.token}") for p in (ada, eve) for _ in range(5)))
    assert [asker.user.user_id for asker in askers] == [ada.user_id] * 5 + [eve.user_id] * 5


async def test_a_refusal_is_not_kept(system: System, ada: Person) -> None:
    found = contexts(system, Clock())
    with pytest.raises(CarrelError) as refusal:
        await found.of("Bearer ck_bm9ib2R5.nothing")
    assert (refusal.value.kind, refusal.value.reason) == (Kind.UNAUTHENTICATED, "CREDENTIAL_INVALID")
    assert (await found.of(f"Bearer {await system.api_key(ada)}")).user.user_id == ada.user_id


async def test_without_the_context_service_the_answer_is_to_try_again(system: System, ada: Person) -> None:
    signer = ServiceSigner("gateway", read_key(system.data_dir / "keys" / "gateway.key"), time.time)
    peer = Peer("context", f"127.0.0.1:{free_ports(1)[0]}", signer)
    try:
        with pytest.raises(CarrelError) as refusal:
            await contexts(system, Clock(), peer).of(f"Bearer {ada.token}")
    finally:
        await peer.close()
    assert (refusal.value.kind, refusal.value.retry_seconds) == (Kind.UNAVAILABLE, 1.0)
    assert "127.0.0.1" not in refusal.value.message


async def test_the_cache_is_bounded_and_forgets_who_was_away_longest(system: System) -> None:
    found = contexts(system, Clock(), cache_size=2)
    one, two, three = [f"Bearer {(await system.person()).token}" for _ in range(3)]
    first, second = await found.of(one), await found.of(two)
    assert await found.of(one) is first
    await found.of(three)
    assert await found.of(one) is first
    assert await found.of(two) is not second


async def test_a_context_ends_no_later_than_its_token(system: System, ada: Person) -> None:
    token = development_token(system.data_dir, ada.tenant_id, ada.user_id, lifetime_seconds=60)
    asker = await contexts(system, Clock()).of(f"Bearer {token}")
    assert asker.user.expire_time <= time.time() + 60 + CLOCK_SKEW_SECONDS


async def test_a_service_that_may_not_ask_is_our_fault_and_no_context(system: System, ada: Person) -> None:
    found = contexts(system, Clock(), system.peer("context", "tool-dispatch"))
    with pytest.raises(CarrelError) as refusal:
        await found.of(f"Bearer {ada.token}")
    assert refusal.value.reason == "INTERNAL"
