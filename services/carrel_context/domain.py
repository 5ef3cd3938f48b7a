"""Contexts as values: how one is issued, narrowed and renewed. It knows no clock, no wire and no database."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import MAX_DEPTH, MAX_LIFETIME_SECONDS, NO_LIMITS, ResourceLimits, UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.revocations import CLOSING_SCOPE

_TICK_SECONDS = 2e-6
"""Contexts hold microseconds."""
_REVOKED = {
    "USER": "The user has been revoked; ask the tenant's administrator.",
    "SESSION": "The session has been revoked; sign in again.",
    "RUN": "The run has been revoked; start it again if you may.",
}
AUDIENCES = frozenset({"context", "agent-execution", "tool-dispatch", "event-stream"})

TOKEN_SESSION, API_KEY_SESSION = "TOKEN", "API_KEY"
"""The kinds of sessions that people see."""
LIMITS = ResourceLimits.__slots__
_STANDARD = frozenset(
    """runs.start runs.read runs.cancel runs.resolve events.read tools.use corpora.read corpora.write
    threads.read threads.write sessions.read sessions.end""".split()
)
_POWER = _STANDARD | {"corpora.admin"}
_DEVELOPER = _POWER | {"contexts.inspect"}
_ADMIN = _DEVELOPER | {"admin.users", "admin.keys", "admin.limits", "admin.revoke", "admin.statistics", "admin.tools"}
ROLES = {
    "standard": _STANDARD,
    "power": _POWER,
    "developer": _DEVELOPER,
    "admin": _ADMIN,
    "super_admin": _ADMIN | {"admin.tenants", "admin.signing_keys"},
}
"""What each role may do. A tenant's administrator acts within the tenant; "admin.tenants" reaches all of them."""
SCOPES = frozenset().union(*ROLES.values())
"""All that may be granted, removed or revoked."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A user as the directory knows it now."""

    tenant_id: str
    user_id: str
    role: str
    disabled: bool
    granted: frozenset[str] = frozenset()
    """Scopes that the user has beside those of the role."""
    removed: frozenset[str] = frozenset()
    """Scopes that were taken from the user, whatever the role says."""
    revoked: str = ""
    """What stands against the context that is asked for: "USER", "SESSION", "RUN", or nothing."""
    limits: ResourceLimits = NO_LIMITS
    tenant_limits: ResourceLimits = NO_LIMITS
    change_time: float = 0.0
    """When rights last changed: what was issued before is refused."""
    session_seen: bool = False
    """The session was written down lately."""

    def permissions(self) -> frozenset[str]:
        """The scopes this user may hold now. Raises CREDENTIAL_INVALID when the user is disabled, CONTEXT_REVOKED when the user,
        the session or the run is revoked."""
        if self.disabled:
            raise credential_invalid("The user is disabled; ask the tenant's administrator.")
        if self.revoked:
            raise CarrelError(
                Kind.UNAUTHENTICATED,
                "CONTEXT_REVOKED",
                _REVOKED[self.revoked],
                metadata={"revoked": self.revoked.lower()},
            )
        return (ROLES.get(self.role, frozenset()) | self.granted) - self.removed

    def earliest(self, now: float) -> float:
        """The issue time of a context that is made now: never before the last change of rights, whatever the clocks say."""
        return max(now, self.change_time + _TICK_SECONDS)


def check_scope(scope: str, field: str) -> str:
    """The scope as it is; INVALID_ARGUMENT when there is none of this name."""
    if scope not in SCOPES:
        raise invalid(field, f"{field} is no scope; choose one of {', '.join(sorted(SCOPES))}.")
    return scope


def credential_invalid(message: str) -> CarrelError:
    """The refusal of a credential."""
    return CarrelError(Kind.UNAUTHENTICATED, "CREDENTIAL_INVALID", message)


def issue(
    principal: Principal,
    *,
    session_id: str,
    request_id: str,
    connection_id: str,
    now: float,
    lifetime_seconds: float,
) -> UserContext:
    """The context of a user's session: all that the user may do, for at most 5 minutes."""
    issue_time = principal.earliest(now)
    return UserContext(
        context_id=new_id("ctx"),
        tenant_id=principal.tenant_id,
        user_id=principal.user_id,
        session_id=session_id,
        scopes=principal.permissions(),
        audiences=AUDIENCES,
        issue_time=issue_time,
        expire_time=issue_time + min(lifetime_seconds, MAX_LIFETIME_SECONDS),
        request_id=request_id,
        connection_id=connection_id,
        limits=principal.limits,
        tenant_limits=principal.tenant_limits,
    )


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a child context is to have; an empty value means: as the parent has it."""

    scopes: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    limits: ResourceLimits | None = None
    expire_time: float = 0.0
    thread_id: str = ""


def narrow(parent: UserContext, wanted: Narrowing, now: float) -> UserContext:
    """A child of the parent that is nowhere wider; raises WIDENING_REFUSED naming the field that would be."""
    _subset("scopes", wanted.scopes, parent.scopes)
    _subset("audiences", wanted.audiences, parent.audiences)
    if wanted.expire_time > parent.expire_time:
        raise _widening("expire_time", "A child context cannot live longer than its parent.")
    if parent.thread_id and wanted.thread_id not in ("", parent.thread_id):
        raise _widening("thread_id", "The context belongs to another thread.")
    if parent.depth >= MAX_DEPTH:
        raise _widening("depth", f"The context has been exchanged {MAX_DEPTH} times; it cannot be exchanged again.")
    return replace(
        parent,
        context_id=new_id("ctx"),
        scopes=wanted.scopes or parent.scopes,
        audiences=wanted.audiences or parent.audiences,
        limits=_narrower(parent.limits, wanted.limits),
        issue_time=max(now, parent.issue_time),
        expire_time=wanted.expire_time or parent.expire_time,
        thread_id=wanted.thread_id or parent.thread_id,
        depth=parent.depth + 1,
        parent_context_id=parent.context_id,
    )


def for_run(
    grant: UserContext, principal: Principal, *, run_id: str, thread_id: str, agent: str, attempt: int, now: float
) -> UserContext:
    """The context of an attempt of a run: what the grant held and the user may still do, for at most 5 minutes."""
    scopes = grant.scopes & principal.permissions()
    # What holds now, and no more than when the run was accepted.
    held = replace(
        grant,
        limits=tighter(grant.limits, principal.limits),
        tenant_limits=tighter(grant.tenant_limits, principal.tenant_limits),
    )
    return _attempt(held, scopes, grant.audiences, principal.earliest(now), run_id, thread_id, agent, attempt)


def for_job(
    grant: UserContext, principal: Principal, *, request_id: str, now: float, lifetime_seconds: float
) -> UserContext:
    """The context of what a schedule starts: its session's, as far as the user may still do what it could."""
    issue_time = principal.earliest(now)
    return replace(
        grant,
        context_id=new_id("ctx"),
        scopes=grant.scopes & principal.permissions(),
        limits=tighter(grant.limits, principal.limits),
        tenant_limits=tighter(grant.tenant_limits, principal.tenant_limits),
        issue_time=issue_time,
        expire_time=issue_time + min(lifetime_seconds, MAX_LIFETIME_SECONDS),
        request_id=request_id,
        connection_id="",
        depth=min(grant.depth + 1, MAX_DEPTH),
        parent_context_id=grant.context_id,
    )


def for_closing(
    grant: UserContext, *, run_id: str, thread_id: str, agent: str, attempt: int, now: float
) -> UserContext:
    """The context that may only write the end of a run: nothing that a revoked user could use, and good even then."""
    audiences = frozenset({"event-stream"}) & grant.audiences
    return _attempt(grant, frozenset({CLOSING_SCOPE}), audiences, now, run_id, thread_id, agent, attempt)


def _attempt(
    grant: UserContext,
    scopes: frozenset[str],
    audiences: frozenset[str],
    issue_time: float,
    run_id: str,
    thread_id: str,
    agent: str,
    attempt: int,
) -> UserContext:
    check_id(run_id, "run_id")
    check_id(thread_id, "thread_id")
    check_id(agent, "agent")
    return replace(
        grant,
        context_id=new_id("ctx"),
        scopes=scopes,
        audiences=audiences,
        issue_time=issue_time,
        expire_time=issue_time + MAX_LIFETIME_SECONDS,
        run_id=run_id,
        thread_id=thread_id,
        agent=agent,
        attempt=attempt,
        depth=min(grant.depth + 1, MAX_DEPTH),
        parent_context_id=grant.context_id,
    )


def _subset(field: str, wanted: Set[str], allowed: Set[str]) -> None:
    if extra := sorted(wanted - allowed):
        raise _widening(field, f"A child context cannot have {', '.join(extra)}: its parent has not.")


def _widening(field: str, message: str) -> CarrelError:
    return CarrelError(Kind.DENIED, "WIDENING_REFUSED", message, metadata={"field": field})


def tighter(one: ResourceLimits, other: ResourceLimits) -> ResourceLimits:
    """The smaller of each; 0 is no limit of its own."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in LIMITS)
    return ResourceLimits(*(min(a, b) if a and b else a or b for a, b in pairs))


def limits_over(limits: ResourceLimits, defaults: ResourceLimits) -> ResourceLimits:
    """What is set, and the default where nothing is."""
    return ResourceLimits(*(getattr(limits, name) or getattr(defaults, name) for name in LIMITS))


def _narrower(parent: ResourceLimits, wanted: ResourceLimits | None) -> ResourceLimits:
    if wanted is None:
        return parent
    values = {}
    for name in LIMITS:
        old, new = getattr(parent, name), getattr(wanted, name)
        # 0 stands for the service's default, which may be more or less than a number: it cannot be asked for once one is set.
        if old and new > old:
            raise _widening(f"limits.{name}", f"A child context cannot have {name} {new}: its parent has {old}.")
        values[name] = new or old
    return ResourceLimits(**values)
