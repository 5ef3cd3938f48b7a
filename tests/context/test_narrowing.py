"""No chain of exchanges ever widens anything, whatever is asked for at each step."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import MAX_DEPTH, MAX_LIFETIME_SECONDS, ResourceLimits, UserContext
from carrel_chassis.revocations import CLOSING_SCOPE
from carrel_context.domain import (
    AUDIENCES,
    LIMITS,
    ROLES,
    SCOPES,
    Narrowing,
    Principal,
    for_closing,
    for_run,
    issue,
    narrow,
)

NOW = 1_800_000_000.0

scopes = st.frozensets(st.sampled_from(sorted(SCOPES)))
audiences = st.frozensets(st.sampled_from([*sorted(AUDIENCES), "elsewhere"]))
limits = st.builds(ResourceLimits, *[st.sampled_from([0, 1, 2, 5, 100])] * len(LIMITS))
times = st.sampled_from([0.0, NOW - 10, NOW + 1, NOW + 60, NOW + 299, NOW + 300, NOW + 301, NOW + 10_000])
wishes = st.builds(
    Narrowing,
    scopes=scopes,
    audiences=audiences,
    limits=st.none() | limits,
    expire_time=times,
    thread_id=st.sampled_from(["", "thread-1", "thread-2"]),
)
principals = st.builds(
    Principal,
    tenant_id=st.just("acme"),
    user_id=st.just("ada"),
    role=st.sampled_from(sorted(ROLES)),
    disabled=st.just(False),
    granted=scopes,
    removed=scopes,
    limits=limits,
    tenant_limits=limits,
)


def born(principal: Principal) -> UserContext:
    return issue(
        principal, session_id="session-1", request_id="request-1", connection_id="", now=NOW, lifetime_seconds=300.0
    )


def within(child: ResourceLimits, parent: ResourceLimits) -> bool:
    """Where the parent has a ceiling, the child's is no higher."""
    pairs = [(getattr(child, name), getattr(parent, name)) for name in LIMITS]
    return all(0 < low <= high for low, high in pairs if high)


def assert_no_wider(child: UserContext, parent: UserContext) -> None:
    assert child.owner == parent.owner and child.session_id == parent.session_id
    assert child.scopes <= parent.scopes
    assert child.audiences <= parent.audiences
    assert within(child.limits, parent.limits) and within(child.tenant_limits, parent.tenant_limits)
    assert child.parent_context_id == parent.context_id and child.context_id != parent.context_id
    assert child.depth <= MAX_DEPTH
    assert not parent.thread_id or child.thread_id == parent.thread_id


@settings(max_examples=500, deadline=None)
@given(principals, st.lists(wishes, max_size=14))
def test_a_chain_of_exchanges_never_widens(principal: Principal, asked: list[Narrowing]) -> None:
    root = current = born(principal)
    steps = 0
    for wanted in asked:
        before = current
        try:
            current = narrow(current, wanted, NOW + steps)
        except CarrelError as refusal:
            assert refusal.reason == "WIDENING_REFUSED"
            assert refusal.metadata["field"]
            continue
        steps += 1
        assert_no_wider(current, before)
        assert current.depth == before.depth + 1 == steps
        assert current.expire_time <= before.expire_time
    assert current.scopes <= root.scopes and current.expire_time <= root.expire_time
    assert within(current.limits, root.limits)


@settings(max_examples=500, deadline=None)
@given(principals, st.lists(wishes, max_size=4), st.lists(principals, min_size=1, max_size=4))
def test_a_run_never_holds_more_than_its_grant_nor_than_its_user_may_now(
    principal: Principal, asked: list[Narrowing], later: list[Principal]
) -> None:
    """Renewals use the grant, however rights have changed since; what a run starts is again no wider."""
    grant = born(principal)
    for wanted in asked:
        try:
            grant = narrow(grant, wanted, NOW)
        except CarrelError:
            continue
    for number, current in enumerate(later, 1):
        names = {"run_id": "run-1", "thread_id": "thread-1", "agent": "echo", "attempt": number}
        made = for_run(grant, current, **names, now=NOW + 1000 * number)  # type: ignore[arg-type]
        assert_no_wider(made, replace(grant, thread_id=""))
        assert made.scopes <= current.permissions()
        assert within(made.limits, current.limits)
        assert made.expire_time - made.issue_time <= MAX_LIFETIME_SECONDS
        end = for_closing(grant, **names, now=NOW + 1000 * number)  # type: ignore[arg-type]
        assert end.scopes == {CLOSING_SCOPE} and end.audiences <= {"event-stream"} and end.owner == grant.owner


@given(principals)
def test_no_role_and_no_grant_holds_the_scope_that_closes_runs(principal: Principal) -> None:
    assert CLOSING_SCOPE not in SCOPES | principal.permissions()
