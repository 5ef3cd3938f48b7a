"""A user in whose rows something is done that nobody asked for in a call: a sweep, a revocation."""

from __future__ import annotations

from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id


def owner_alone(tenant_id: str, user_id: str) -> UserContext:
    """Binds the database to the owner's rows; it has no authority and never leaves this process."""
    return UserContext(
        context_id=new_id("ctx"),
        tenant_id=tenant_id,
        user_id=user_id,
        session_id="owner-alone",
        scopes=frozenset(),
        audiences=frozenset(),
        issue_time=0.0,
        expire_time=0.0,
        request_id=new_id("request"),
    )
