"""The identity and authority of a call, as the services handle it: frozen, hashable, holding no resource."""

from __future__ import annotations

from dataclasses import dataclass

from carrel_chassis.ids import check_id

MAX_DEPTH = 10
MAX_LIFETIME_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Ceilings that a service enforces without asking; 0 means that the service's own default holds."""

    running_runs: int = 0
    queued_runs: int = 0
    database_sessions: int = 0
    tool_calls_per_minute: int = 0
    open_streams: int = 0
    isolated_memory_mb: int = 0
    weight: int = 0
    """The share of the turns of those whose runs wait: no ceiling, but it comes the same way."""


NO_LIMITS = ResourceLimits()


@dataclass(frozen=True, slots=True)
class UserContext:
    """Who is asking, what they may do, and for how long. Made by the context service; everywhere else it comes from `verify`.

    Ids are checked when it is made, so one that exists is never a placeholder. Times are seconds since the epoch.
    Optional ids are empty strings.
    """

    context_id: str
    tenant_id: str
    user_id: str
    session_id: str
    scopes: frozenset[str]
    audiences: frozenset[str]
    issue_time: float
    expire_time: float
    request_id: str
    thread_id: str = ""
    run_id: str = ""
    connection_id: str = ""
    limits: ResourceLimits = NO_LIMITS
    depth: int = 0
    parent_context_id: str = ""
    agent: str = ""
    attempt: int = 0
    tenant_limits: ResourceLimits = NO_LIMITS
    """Ceilings of all the tenant's users together."""

    def __post_init__(self) -> None:
        check_id(self.context_id, "context_id")
        check_id(self.tenant_id, "tenant_id")
        check_id(self.user_id, "user_id")
        check_id(self.session_id, "session_id")
        check_id(self.request_id, "request_id")
        if self.thread_id:
            check_id(self.thread_id, "thread_id")
        if self.run_id:
            check_id(self.run_id, "run_id")
        if self.connection_id:
            check_id(self.connection_id, "connection_id")
        if not 0 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth is {self.depth}; it is at most {MAX_DEPTH}")

    @property
    def owner(self) -> tuple[str, str]:
        """Tenant and user: what everything of a user is filed under."""
        return (self.tenant_id, self.user_id)
