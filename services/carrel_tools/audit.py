"""The record of decisions: the lines of the ledger, read as what was decided. A user reads their own, an administrator the tenant's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Row
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_tools import domain
from carrel_tools.domain import NEWEST
from carrel_tools.policy import Effect
from carrel_tools.repository import BEFORE, OWN

_DECISION = """tool_call_id, user_id, run_id, step_id, agent, tool, outcome, error_reason, rule, policy_version, approval_id,
    create_time"""
LIST_DECISIONS = text(f"SELECT {_DECISION} FROM tool_call WHERE {OWN} AND {BEFORE}")
LIST_TENANT_DECISIONS = text(f"SELECT {_DECISION} FROM tool_call WHERE tenant_id = :tenant_id AND {BEFORE}")


@dataclass(frozen=True, slots=True)
class ToolDecision:
    """One decision on one call."""

    tool_call_id: str
    user_id: str
    run_id: str
    step_id: str
    agent: str
    tool: str
    effect: Effect
    rule_id: str
    policy_version: str
    approval_id: str
    create_time: datetime


class Audit:
    """Lists decisions, newest first, by page."""

    def __init__(self, sessions: UserSessions, tenants: TenantDatabase) -> None:
        self._sessions = sessions
        self._tenants = tenants

    async def own_page(
        self, user: UserContext, call_id: str, page_size: int, token: str
    ) -> tuple[list[ToolDecision], str]:
        """The user's, and the token of the next page. Of a tool that does not exist for the user no rule is named: it would tell
        a hidden tool from an absent one."""
        size, values = _page(page_size, token, "")
        values |= {"tenant_id": user.tenant_id, "user_id": user.user_id}
        async with self._sessions.open(user, call_id) as session:
            rows = await session.execute(LIST_DECISIONS, values)
        return _answer(rows, size, "", masked=True)

    async def tenant_page(
        self, tenant_id: str, user_id: str, page_size: int, token: str
    ) -> tuple[list[ToolDecision], str]:
        """The tenant's, or those of one user of it, with every rule."""
        if user_id:
            check_id(user_id, "user_id")
        size, values = _page(page_size, token, user_id or "*")
        values |= {"tenant_id": tenant_id, "user_id": user_id}
        async with self._tenants.of(tenant_id) as connection:
            rows = await connection.execute(LIST_DECISIONS if user_id else LIST_TENANT_DECISIONS, values)
        return _answer(rows, size, user_id or "*", masked=False)


def _page(page_size: int, token: str, of: str) -> tuple[int, dict[str, Any]]:
    size = domain.page_size_of(page_size)
    create_time, tool_call_id = domain.read_position(token, "tool_decisions", of) if token else NEWEST
    return size, {"create_time": create_time, "tool_call_id": tool_call_id, "size": size + 1}


def _answer(rows: list[Row], size: int, of: str, *, masked: bool) -> tuple[list[ToolDecision], str]:
    found = [_decision(row, masked) for row in rows[:size]]
    if len(rows) <= size:
        return found, ""
    last = found[-1]
    return found, domain.position("tool_decisions", of, last.create_time, last.tool_call_id)


def _decision(row: Row, masked: bool) -> ToolDecision:
    effect = Effect.ALLOW
    if row.outcome == "DENIED":
        effect = Effect.REQUIRE_APPROVAL if row.error_reason == "APPROVAL_REQUIRED" else Effect.DENY
    hidden = masked and row.error_reason == "TOOL_NOT_FOUND"
    return ToolDecision(
        tool_call_id=row.tool_call_id,
        user_id=row.user_id,
        run_id=row.run_id,
        step_id=row.step_id,
        agent=row.agent,
        tool=row.tool,
        effect=effect,
        rule_id="" if hidden else row.rule,
        policy_version=row.policy_version,
        approval_id=row.approval_id,
        create_time=row.create_time,
    )
