"""The record of decisions: the lines of the ledger, read as what was decided. A user reads their own, an administrator the tenant's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from carrel_chassis.db.engine import Row
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_chassis.pages import Page, list_name
from carrel_tools.policy import Effect
from carrel_tools.repository import BEFORE, OWN, position_of

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
        page = _page("", page_size, token)
        values = {"tenant_id": user.tenant_id, "user_id": user.user_id, **position_of(page)}
        async with self._sessions.open(user, call_id) as session:
            rows = await session.execute(LIST_DECISIONS, values)
        return _answer(rows, page, masked=True)

    async def tenant_page(
        self, tenant_id: str, user_id: str, page_size: int, token: str
    ) -> tuple[list[ToolDecision], str]:
        """The tenant's, or those of one user of it, with every rule."""
        if user_id:
            check_id(user_id, "user_id")
        page = _page(user_id or "*", page_size, token)
        values = {"tenant_id": tenant_id, "user_id": user_id, **position_of(page)}
        async with self._tenants.of(tenant_id) as connection:
            rows = await connection.execute(LIST_DECISIONS if user_id else LIST_TENANT_DECISIONS, values)
        return _answer(rows, page, masked=False)


def _page(of: str, page_size: int, token: str) -> Page:
    return Page.newest_first(list_name("tool_decisions", of), page_size, token)


def _answer(rows: list[Row], page: Page, *, masked: bool) -> tuple[list[ToolDecision], str]:
    found = [_decision(row, masked) for row in rows[: page.size]]
    if len(rows) <= page.size:
        return found, ""
    return found, page.token_after(found[-1].create_time, found[-1].tool_call_id)


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
