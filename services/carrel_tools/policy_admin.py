"""The operations of a tenant's administrator on its policy: read it, replace it, try it. It owns their transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy import text

from carrel_chassis.bus import Bus
from carrel_chassis.db.engine import Connection
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_tools import domain
from carrel_tools.policies import SUBJECT, Policies
from carrel_tools.policy import Decision, Effect, Policy, Rule, check_rules, read_rules_json, rules_json
from carrel_tools.tool_system import BUILT_IN, ToolProvider, ToolSystem

NEWEST = text("""
    SELECT version, rules_json, changed_by, create_time FROM tool_policy
    WHERE tenant_id = :tenant_id ORDER BY version DESC LIMIT 1
""")
# Whoever holds the row of the version is alone: versions appear in their order, and an expected version stays what it is.
NEXT_VERSION = text("UPDATE tool_policy_version SET version = version + 1 RETURNING version")
ADD = text("""
    INSERT INTO tool_policy (tenant_id, version, rules_json, changed_by)
    VALUES (:tenant_id, :version, :rules_json, :changed_by) RETURNING create_time
""")


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The rules of a tenant, and who set them when; the built-in ones have version 0 and were set by nobody."""

    rules: tuple[Rule, ...]
    version: int = 0
    changed_by: str = ""
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What would be decided of a call."""

    decision: Decision
    visible: bool


class People(Protocol):
    """Who knows what a user may do now."""

    async def scopes_of(self, tenant_id: str, user_id: str) -> frozenset[str]:
        """The scopes; raises USER_NOT_FOUND, and SCOPE_MISSING when the caller may not ask."""


class PolicyOperations:
    """Get, set, test."""

    def __init__(
        self, tenants: TenantDatabase, policies: Policies, providers: Sequence[ToolProvider], bus: Bus | None
    ) -> None:
        self._tenants = tenants
        self._policies = policies
        self._providers = providers
        self._bus = bus

    async def get(self, tenant_id: str) -> StoredPolicy:
        """The rules in effect."""
        async with self._tenants.of(tenant_id) as connection:
            return await _newest(connection, tenant_id)

    async def set(self, user: UserContext, rules: Sequence[Rule], expected_version: int) -> StoredPolicy:
        """Replaces the rules of the user's tenant; when this returns they hold in this process. Raises POLICY_CHANGED."""
        check_rules(rules)
        async with self._tenants.of(user.tenant_id) as connection:
            version: int = (await connection.execute(NEXT_VERSION)).scalar_one()
            before = await _newest(connection, user.tenant_id)
            if before.version != expected_version:
                raise _policy_changed(before.version)
            values = {
                "tenant_id": user.tenant_id,
                "version": version,
                "rules_json": rules_json(rules),
                "changed_by": user.user_id,
            }
            create_time: datetime = (await connection.execute(ADD, values)).scalar_one()
        await self._policies.refresh()
        if self._bus is not None:
            await self._bus.publish(SUBJECT, str(version).encode())
        return StoredPolicy(tuple(rules), version, user.user_id, create_time)

    async def test(
        self,
        admin: UserContext,
        user_id: str,
        tool: str,
        arguments_json: str,
        rules: Sequence[Rule],
        scopes: frozenset[str],
        people: People,
    ) -> Trial:
        """What would be decided of a call of this user; of these rules and scopes where any are given."""
        check_id(user_id, "user_id")
        check_rules(rules)
        arguments = domain.read_arguments(arguments_json or "{}")
        held = scopes or await people.scopes_of(admin.tenant_id, user_id)
        policy = Policy(rules, "proposed") if rules else await self._policies.of(admin.tenant_id)
        system = ToolSystem(replace(admin, user_id=user_id, scopes=held), policy, self._providers)
        found = await system.find(tool)
        view = system.view(found.tool if found is not None else None)
        if found is None or view.effect is Effect.DENY:
            return Trial(view, False)
        return Trial(system.decide(found.tool, arguments), True)


async def _newest(connection: Connection, tenant_id: str) -> StoredPolicy:
    row = (await connection.execute(NEWEST, {"tenant_id": tenant_id})).one_or_none()
    if row is None:
        return StoredPolicy(BUILT_IN.rules)
    return StoredPolicy(tuple(read_rules_json(row.rules_json)), row.version, row.changed_by, row.create_time)


def _policy_changed(version: int) -> CarrelError:
    return CarrelError(
        Kind.RACED,
        "POLICY_CHANGED",
        f"The rules are of version {version} by now; read them again.",
        metadata={"version": str(version)},
    )
