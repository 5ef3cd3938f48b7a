"""Limits of users and tenants: what is set, what holds, and how it reaches the contexts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.errors import invalid
from carrel_chassis.identity import NO_LIMITS, ResourceLimits
from carrel_chassis.ids import check_id
from carrel_context.domain import LIMITS, limits_over
from carrel_context.people import user_not_found
from carrel_context.revocations import RevocationOperations, demand_new_contexts

_MOST = 2**31 - 1
_NAMES = ", ".join(LIMITS)
_VALUES = ", ".join(f":{name}" for name in LIMITS)
_SET = ", ".join(f"{name} = excluded.{name}" for name in LIMITS)
USER_LIMITS = text(f"SELECT {_NAMES} FROM user_limit WHERE tenant_id = :tenant_id AND user_id = :user_id")
TENANT_LIMITS = text(f"SELECT {_NAMES} FROM tenant_limit WHERE tenant_id = :tenant_id")
SET_USER_LIMITS = text(f"""
    INSERT INTO user_limit (tenant_id, user_id, {_NAMES}) VALUES (:tenant_id, :user_id, {_VALUES})
    ON CONFLICT (tenant_id, user_id) DO UPDATE SET {_SET}
""")
SET_TENANT_LIMITS = text(f"""
    INSERT INTO tenant_limit (tenant_id, {_NAMES}) VALUES (:tenant_id, {_VALUES})
    ON CONFLICT (tenant_id) DO UPDATE SET {_SET}
""")
HAS_USER = text("SELECT 1 FROM app_user WHERE tenant_id = :tenant_id AND user_id = :user_id")


class LimitOperations:
    """Gets and sets limits. `of_users` and `of_tenants` are the defaults from the settings."""

    def __init__(
        self,
        tenants: TenantDatabase,
        revoking: RevocationOperations,
        *,
        of_users: ResourceLimits,
        of_tenants: ResourceLimits,
    ) -> None:
        self._tenants = tenants
        self._revoking = revoking
        self._of_users = of_users
        self._of_tenants = of_tenants

    async def get(self, tenant_id: str, user_id: str) -> tuple[ResourceLimits, ResourceLimits]:
        """What is set, and what holds; of the tenant when `user_id` is empty."""
        values = _owner(tenant_id, user_id)
        async with self._tenants.of(tenant_id) as connection:
            row = (await connection.execute(USER_LIMITS if user_id else TENANT_LIMITS, values)).one_or_none()
        return self._answer(ResourceLimits(*row) if row else NO_LIMITS, user_id)

    async def set(self, tenant_id: str, user_id: str, limits: ResourceLimits) -> tuple[ResourceLimits, ResourceLimits]:
        """Sets all of them. A user's hold within 2 seconds, a tenant's in every context that is issued from now on."""
        for name, value in asdict(limits).items():
            if value > _MOST:
                raise invalid(f"limits.{name}", f"limits.{name} is {value}; it is at most {_MOST}.")
        values: dict[str, Any] = {**_owner(tenant_id, user_id), **asdict(limits)}
        changed = None
        async with self._tenants.of(tenant_id) as connection:
            if user_id:
                if (await connection.execute(HAS_USER, values)).one_or_none() is None:
                    raise user_not_found(user_id)
                await connection.execute(SET_USER_LIMITS, values)
                changed = await demand_new_contexts(connection, tenant_id, user_id)
            else:
                await connection.execute(SET_TENANT_LIMITS, values)
        await self._revoking.tell(changed)
        return self._answer(limits, user_id)

    def _answer(self, limits: ResourceLimits, user_id: str) -> tuple[ResourceLimits, ResourceLimits]:
        return limits, limits_over(limits, self._of_users if user_id else self._of_tenants)


def _owner(tenant_id: str, user_id: str) -> dict[str, Any]:
    if user_id:
        check_id(user_id, "user_id")
    return {"tenant_id": tenant_id, "user_id": user_id}
