"""How a process follows what is revoked: versions, gaps, silence."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.revocations import CLOSING_SCOPE, Changes, Revocation, Revocations, What
from carrel_chassis.signing import ContextVerifier
from tests.libs.chassis.test_signing import NOW, Clock, Keys, context, sign

USER = Revocation("acme", "ada", What.USER, "", 1, True, NOW)


class Source:
    """The context service: a list of changes, each of which may be asked for or not be there."""

    def __init__(self) -> None:
        self.changes: list[Revocation] = []
        self.away = False
        self.asked: list[int] = []
        self.page = 100

    async def __call__(self, after: int) -> Changes:
        self.asked.append(after)
        if self.away:
            raise CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "Away.")
        found = [change for change in self.changes if change.version > after]
        version = max((change.version for change in self.changes), default=0)
        page = found[: self.page]
        more = len(found) > self.page
        return Changes(page, page[-1].version if more else version, more)


def revocations(source: Source, **changes: float) -> Revocations:
    return Revocations(source, Clock(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("revocation", "refused"),
    [
        (USER, True),
        (replace(USER, user_id="eve"), False),
        (replace(USER, tenant_id="other"), False),
        (replace(USER, what=What.SESSION, value="session-1"), True),
        (replace(USER, what=What.SESSION, value="session-2"), False),
        (replace(USER, what=What.RUN, value="run-1"), True),
        (replace(USER, what=What.RUN, value="run-2"), False),
        (replace(USER, what=What.SCOPE, value="runs.read"), False),
        (replace(USER, revoked=False, change_time=NOW + 1), True),
        (replace(USER, revoked=False, change_time=NOW), False),
    ],
)
async def test_what_a_revocation_refuses(revocation: Revocation, refused: bool) -> None:
    source = Source()
    source.changes = [revocation]
    user = context(run_id="run-1")
    known = revocations(source)
    if not refused:
        await known.check(user)
        return
    with pytest.raises(CarrelError) as refusal:
        await known.check(user)
    assert refusal.value.reason == "CONTEXT_REVOKED"


async def test_a_revoked_scope_is_gone_from_the_context() -> None:
    source = Source()
    source.changes = [replace(USER, what=What.SCOPE, value="runs.start")]
    assert (await revocations(source).check(context())).scopes == {"runs.read"}


async def test_the_end_of_a_run_can_always_be_written() -> None:
    source = Source()
    source.changes = [USER]
    closing = context(scopes=frozenset({CLOSING_SCOPE}))
    assert await revocations(source).check(closing) is closing
    with pytest.raises(CarrelError):
        await revocations(source).check(context(scopes=frozenset({CLOSING_SCOPE, "runs.read"})))


async def test_nothing_is_accepted_before_the_first_snapshot() -> None:
    source = Source()
    source.away = True
    known = revocations(source)
    with pytest.raises(CarrelError) as refusal:
        await known.check(context())
    assert refusal.value.kind is Kind.UNAVAILABLE
    source.away = False
    source.changes = [USER]
    with pytest.raises(CarrelError, match="revoked"):
        await known.check(context())


async def test_a_gap_is_fetched() -> None:
    source = Source()
    known = revocations(source)
    await known.refresh()
    source.changes = [replace(USER, user_id=f"user-{number}", version=number) for number in range(1, 8)]
    source.page = 3
    known.heard(7)
    await known.refresh()
    assert known.version == 7
    with pytest.raises(CarrelError):
        await known.check(context(user_id="user-5"))


async def test_a_push_makes_it_ask_at_once() -> None:
    source = Source()
    known = revocations(source)
    task = asyncio.create_task(known.keep_fresh(60.0))
    await asyncio.sleep(0.01)
    told = asyncio.Event()
    known.watch(lambda _: told.set())
    source.changes = [USER]
    known.heard(1)
    async with asyncio.timeout(1):
        await told.wait()
    task.cancel()


async def test_a_lost_push_is_found_by_the_poll() -> None:
    source = Source()
    known = revocations(source)
    task = asyncio.create_task(known.keep_fresh(0.02))
    await asyncio.sleep(0.01)
    told = asyncio.Event()
    known.watch(lambda _: told.set())
    source.changes = [USER]
    async with asyncio.timeout(1):
        await told.wait()
    task.cancel()


async def test_silence_is_stale_and_keeps_refusing_what_was_known() -> None:
    source = Source()
    source.changes = [USER]
    known = revocations(source, stale_seconds=0.05)
    said: list[bool] = []
    known.on_stale(said.append)
    task = asyncio.create_task(known.keep_fresh(0.01))
    await asyncio.sleep(0.03)
    source.away = True
    await asyncio.sleep(0.2)
    assert (known.stale, known.closed, said) == (True, False, [True])
    with pytest.raises(CarrelError, match="revoked"):
        await known.check(context())
    await known.check(context(user_id="eve"))
    source.away = False
    await asyncio.sleep(0.05)
    assert (known.stale, said) == (False, [True, False])
    task.cancel()


async def test_a_system_that_fails_closed_refuses_everybody_while_it_is_stale() -> None:
    source = Source()
    known = revocations(source, stale_seconds=0.05, fail_closed=True)
    verifier = ContextVerifier(Keys(), "event-stream", Clock(), known)
    raw = sign(context())
    await verifier.verify(raw)  # from here on it is in the cache
    source.away = True
    task = asyncio.create_task(known.keep_fresh(0.01))
    await asyncio.sleep(0.2)
    with pytest.raises(CarrelError) as refusal:
        await verifier.verify(raw)
    assert refusal.value.kind is Kind.UNAVAILABLE
    source.away = False
    await asyncio.sleep(0.05)
    await verifier.verify(raw)
    task.cancel()


async def test_a_cached_context_is_refused_from_the_moment_of_its_revocation() -> None:
    source = Source()
    known = revocations(source)
    verifier = ContextVerifier(Keys(), "event-stream", Clock(), known)
    raw, other = sign(context()), sign(context(user_id="eve"))
    await verifier.verify(raw)
    kept = await verifier.verify(other)
    known.apply(USER)
    with pytest.raises(CarrelError) as refusal:
        await verifier.verify(raw)
    assert refusal.value.reason == "CONTEXT_REVOKED"
    assert await verifier.verify(other) is kept


async def test_an_answer_that_is_older_than_a_change_made_here_does_not_undo_it() -> None:
    source = Source()
    known = revocations(source)
    await known.refresh()
    source.changes = [replace(USER, version=1, revoked=False)]
    known.apply(replace(USER, version=2))
    await known.refresh()
    with pytest.raises(CarrelError, match="revoked"):
        await known.check(context())


async def test_a_database_that_was_put_back_loses_nothing_here() -> None:
    source = Source()
    source.changes = [replace(USER, version=5)]
    known = revocations(source)
    await known.refresh()
    source.changes = [replace(USER, user_id="eve", version=2)]
    await known.refresh()
    assert known.version == 2
    for user_id in ("ada", "eve"):
        with pytest.raises(CarrelError, match="revoked"):
            await known.check(context(user_id=user_id))


async def test_what_nothing_valid_can_be_refused_by_is_forgotten() -> None:
    source = Source()
    source.changes = [replace(USER, expire_time=NOW - 1)]
    known = revocations(source)
    task = asyncio.create_task(known.keep_fresh(60.0))
    await asyncio.sleep(0.02)
    await known.check(context())
    task.cancel()
