"""What a context is worth, check by check: the same rules as a verifier's, each made on its own, so that support sees which one failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import MAX_DEPTH
from carrel_chassis.ids import check_id
from carrel_chassis.signing import CLOCK_SKEW_SECONDS
from carrel_context.domain import AUDIENCES, Principal

WEIGHTS = {
    "form": 10,
    "signature": 25,
    "times": 15,
    "audience": 10,
    "placeholders": 10,
    "depth": 5,
    "session": 15,
    "permissions": 10,
}
"""What each check adds to the score; together 100."""
_IDS = ("context_id", "tenant_id", "user_id", "session_id", "request_id")
_OPTIONAL_IDS = ("thread_id", "run_id", "connection_id")


class Outcome(Enum):
    """How a check went."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_MADE = "NOT_MADE"


@dataclass(frozen=True, slots=True)
class Check:
    """One check, and what was found."""

    name: str
    outcome: Outcome
    reason: str
    message: str

    @property
    def weight(self) -> int:
        """What it adds when it passes."""
        return WEIGHTS[self.name]


def passed(name: str, message: str) -> Check:
    """The check of a rule that holds."""
    return Check(name, Outcome.PASSED, "", message)


def failed(name: str, reason: str, message: str) -> Check:
    """The check of a rule that does not hold, with what a call is refused for."""
    return Check(name, Outcome.FAILED, reason, message)


def not_made(name: str, message: str) -> Check:
    """A check that lacks what it looks at."""
    return Check(name, Outcome.NOT_MADE, "", message)


def score(checks: Sequence[Check]) -> int:
    """0 to 100."""
    return sum(check.weight for check in checks if check.outcome is Outcome.PASSED)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a context says of itself, before anything of it is believed: its ids may be anything."""

    ids: dict[str, str]
    scopes: frozenset[str]
    audiences: frozenset[str]
    issue_time: float
    expire_time: float
    depth: int
    parent_context_id: str


def check_times(claims: Claims, now: float) -> Check:
    """Between its issue and its expiry, by clocks that may stand a little apart."""
    if now > claims.expire_time + CLOCK_SKEW_SECONDS:
        return failed("times", "CONTEXT_EXPIRED", f"It expired {now - claims.expire_time:.0f} s ago.")
    if now < claims.issue_time - CLOCK_SKEW_SECONDS:
        return failed("times", "CONTEXT_NOT_YET_VALID", f"It was issued {claims.issue_time - now:.0f} s from now.")
    return passed("times", f"It is good for another {claims.expire_time - now:.0f} s.")


def check_audience(claims: Claims, audience: str) -> Check:
    """Meant for the service in question, or for any of ours."""
    wanted = frozenset({audience}) if audience else AUDIENCES
    if not wanted & claims.audiences:
        names = ", ".join(sorted(claims.audiences)) or "nobody"
        return failed("audience", "AUDIENCE_MISMATCH", f"It is meant for {names}.")
    return passed("audience", f"It is meant for {', '.join(sorted(wanted & claims.audiences))}.")


def check_ids(claims: Claims) -> Check:
    """Every id is one: none is empty, a placeholder, or outside the alphabet."""
    for name in (*_IDS, *(name for name in _OPTIONAL_IDS if claims.ids.get(name))):
        try:
            check_id(claims.ids.get(name, ""), name)
        except CarrelError as error:
            return failed("placeholders", error.reason, error.message)
    return passed("placeholders", "Every id is one.")


def check_depth(claims: Claims) -> Check:
    """Not too far from the session that it comes from, and with a parent if it is a child."""
    if claims.depth > MAX_DEPTH:
        return failed("depth", "CONTEXT_MALFORMED", f"Its depth is {claims.depth}; it is at most {MAX_DEPTH}.")
    if (claims.depth > 0) != bool(claims.parent_context_id):
        return failed("depth", "CONTEXT_MALFORMED", "Its depth and its parent do not fit each other.")
    return passed("depth", f"It has been exchanged {claims.depth} times.")


def check_session(principal: Principal | None) -> Check:
    """The user is known and may act, and nothing that it was issued under is revoked."""
    if principal is None:
        return failed("session", "CREDENTIAL_INVALID", "The user is not known.")
    try:
        principal.permissions()
    except CarrelError as error:
        return failed("session", error.reason, error.message)
    return passed("session", "The user, the session and the run stand.")


def check_permissions(claims: Claims, principal: Principal | None) -> Check:
    """It holds nothing that its user may not do now, and was not issued before rights changed."""
    if principal is None:
        return not_made("permissions", "The user is not known.")
    try:
        allowed = principal.permissions()
    except CarrelError:
        return not_made("permissions", "The user may not act at all.")
    if claims.issue_time < principal.change_time:
        return failed("permissions", "CONTEXT_REVOKED", "It was issued before the user's rights changed.")
    if extra := sorted(claims.scopes - allowed):
        return failed("permissions", "SCOPE_MISSING", f"The user may no longer do {', '.join(extra)}.")
    return passed("permissions", f"The user may do all {len(claims.scopes)} things that it allows.")
