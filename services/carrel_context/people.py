"""People and tenants, as administrators handle them: the statements, and the operations over them.

Nobody gives what they do not have, and nobody changes a user who has more than they have: `may_give` is the scopes of who asks, None for
the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Connection
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.ids import check_id
from carrel_chassis.pages import page_size, read_token, write_token
from carrel_chassis.revocations import Revocation, What
from carrel_context.api_keys import new_api_key
from carrel_context.domain import ROLES, check_scope
from carrel_context.revocations import RevocationOperations, change, demand_new_contexts, is_revoked

Scopes = frozenset[str]
MayGive = Scopes | None

_USER = """
    SELECT u.tenant_id, u.user_id, u.role, u.disabled, u.granted_scopes,
           ARRAY(SELECT value FROM revocation r WHERE r.tenant_id = u.tenant_id AND r.user_id = u.user_id
                 AND r.what = 'SCOPE' AND r.revoked ORDER BY value) AS removed_scopes,
           u.create_time,
           EXISTS (SELECT FROM revocation r WHERE r.tenant_id = u.tenant_id AND r.user_id = u.user_id
                   AND r.what = 'USER' AND r.revoked) AS revoked
    FROM app_user u
"""
FIND_USER = text(f"{_USER} WHERE u.tenant_id = :tenant_id AND u.user_id = :user_id FOR UPDATE OF u")
PAGE_OF_USERS = text(f"{_USER} WHERE u.tenant_id = :tenant_id AND u.user_id > :after ORDER BY u.user_id LIMIT :count")
NEW_USER = text("""
    INSERT INTO app_user (tenant_id, user_id, role, granted_scopes)
    VALUES (:tenant_id, :user_id, :role, :granted_scopes)
    ON CONFLICT (tenant_id, user_id) DO NOTHING RETURNING user_id
""")
CHANGE_USER = text("""
    UPDATE app_user SET role = :role, disabled = :disabled, granted_scopes = :granted_scopes
    WHERE tenant_id = :tenant_id AND user_id = :user_id
""")
NEW_TENANT = text("INSERT INTO tenant (tenant_id) VALUES (:tenant_id) ON CONFLICT (tenant_id) DO NOTHING")
FIND_TENANT = text("SELECT tenant_id, create_time FROM tenant WHERE tenant_id = :tenant_id")
PAGE_OF_TENANTS = text(
    "SELECT tenant_id, create_time FROM tenant WHERE tenant_id > :after ORDER BY tenant_id LIMIT :count"
)
_KEY = "SELECT api_key_id, label, create_time, revoke_time FROM api_key WHERE tenant_id = :tenant_id AND user_id = :user_id"
PAGE_OF_KEYS = text(f"{_KEY} AND api_key_id > :after ORDER BY api_key_id LIMIT :count")
FIND_KEY = text(f"{_KEY} AND api_key_id = :api_key_id")
NEW_KEY = text("""
    INSERT INTO api_key (tenant_id, user_id, api_key_id, secret_sha256, label)
    VALUES (:tenant_id, :user_id, :api_key_id, :secret_sha256, :label)
""")
REVOKE_KEY = text("""
    UPDATE api_key SET revoke_time = coalesce(revoke_time, now())
    WHERE tenant_id = :tenant_id AND user_id = :user_id AND api_key_id = :api_key_id
""")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant."""

    tenant_id: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class User:
    """A user, as administrators see it."""

    tenant_id: str
    user_id: str
    role: str
    disabled: bool
    granted_scopes: Sequence[str]
    removed_scopes: Sequence[str]
    create_time: datetime
    revoked: bool

    def scopes(self) -> Scopes:
        """What the user may do, unless disabled or revoked."""
        return (ROLES.get(self.role, frozenset()) | set(self.granted_scopes)) - set(self.removed_scopes)


@dataclass(frozen=True, slots=True)
class ApiKeyEntry:
    """An API key without its secret."""

    api_key_id: str
    label: str
    create_time: datetime
    revoke_time: datetime | None


@dataclass(frozen=True, slots=True)
class UserChange:
    """What is to be different; None stays as it is."""

    role: str | None = None
    disabled: bool | None = None
    granted_scopes: Scopes | None = None
    removed_scopes: Scopes | None = None

    def __post_init__(self) -> None:
        if self.role is not None:
            check_role(self.role)
        for field in ("granted_scopes", "removed_scopes"):
            for scope in getattr(self, field) or ():
                check_scope(scope, field)


class PeopleOperations:
    """Tenants, users and their API keys."""

    def __init__(self, tenants: TenantDatabase, revoking: RevocationOperations, keep_seconds: float) -> None:
        self._tenants = tenants
        self._revoking = revoking
        self._keep_seconds = keep_seconds

    async def create_tenant(self, tenant_id: str) -> Tenant:
        """Enters a tenant, once."""
        async with self._tenants.of(tenant_id) as connection:
            await connection.execute(NEW_TENANT, {"tenant_id": tenant_id})
            return Tenant(*(await connection.execute(FIND_TENANT, {"tenant_id": tenant_id})).one())

    async def list_tenants(self, asked: int, token: str) -> tuple[list[Tenant], str]:
        """A page of tenants by id, and the token of the next page."""
        size, after = _page(asked, token, "tenants")
        async with self._tenants.of("nobody") as connection:  # the list is of no tenant
            rows = await connection.execute(PAGE_OF_TENANTS, {"after": after, "count": size + 1})
        found = [Tenant(*row) for row in rows]
        return found[:size], write_token("tenants", found[size - 1].tenant_id) if len(found) > size else ""

    async def create_user(self, tenant_id: str, user_id: str, role: str, granted: Scopes, may_give: MayGive) -> User:
        """Enters a user; USER_EXISTS, WIDENING_REFUSED."""
        check_id(user_id, "user_id")
        wanted = UserChange(role=role or "standard", granted_scopes=granted)
        _check_giving(ROLES[wanted.role or ""] | granted, may_give, "role")
        values = {"tenant_id": tenant_id, "user_id": user_id, "role": wanted.role, "granted_scopes": sorted(granted)}
        async with self._tenants.of(tenant_id) as connection:
            await connection.execute(NEW_TENANT, values)
            if (await connection.execute(NEW_USER, values)).one_or_none() is None:
                raise CarrelError(
                    Kind.RACED,
                    "USER_EXISTS",
                    f"The tenant has a user {user_id} already; update it instead.",
                    metadata={"user_id": user_id},
                )
            return await _find(connection, tenant_id, user_id)

    async def get_user(self, tenant_id: str, user_id: str) -> User:
        """The user; USER_NOT_FOUND."""
        check_id(user_id, "user_id")
        async with self._tenants.of(tenant_id) as connection:
            return await _find(connection, tenant_id, user_id)

    async def list_users(self, tenant_id: str, asked: int, token: str) -> tuple[list[User], str]:
        """A page of a tenant's users by id, and the token of the next page."""
        size, after = _page(asked, token, "users")
        async with self._tenants.of(tenant_id) as connection:
            rows = await connection.execute(PAGE_OF_USERS, {"tenant_id": tenant_id, "after": after, "count": size + 1})
        found = [User(*row) for row in rows]
        return found[:size], write_token("users", found[size - 1].user_id) if len(found) > size else ""

    async def update_user(self, tenant_id: str, user_id: str, wanted: UserChange, may_give: MayGive) -> User:
        """Changes a user and makes it hold everywhere; USER_NOT_FOUND, WIDENING_REFUSED."""
        check_id(user_id, "user_id")
        async with self._tenants.of(tenant_id) as connection:
            before = await _find(connection, tenant_id, user_id)
            _check_giving(before.scopes() | set(before.removed_scopes), may_give, "user_id")
            values = {
                "tenant_id": tenant_id,
                "user_id": user_id,
                "role": wanted.role or before.role,
                "disabled": before.disabled if wanted.disabled is None else wanted.disabled,
                "granted_scopes": sorted(
                    before.granted_scopes if wanted.granted_scopes is None else wanted.granted_scopes
                ),
            }
            await connection.execute(CHANGE_USER, values)
            changes = await self._make_known(connection, before, wanted)
            after = await _find(connection, tenant_id, user_id)
            _check_giving(after.scopes(), may_give, "role")
        await self._revoking.tell(*changes)
        return after

    async def _make_known(self, connection: Connection, before: User, wanted: UserChange) -> list[Revocation | None]:
        """What the services must hear of: scopes that were taken or given back, a user who may no longer act, or may again."""
        owner = (before.tenant_id, before.user_id)
        changes: list[Revocation | None] = []
        if wanted.removed_scopes is not None:
            for scope in sorted(wanted.removed_scopes ^ set(before.removed_scopes)):
                taken = scope in wanted.removed_scopes
                changes.append(await change(connection, *owner, What.SCOPE, scope, revoked=taken, reason="removed"))
        if wanted.disabled is True and not await is_revoked(connection, *owner, What.USER, ""):
            changes.append(await change(connection, *owner, What.USER, revoked=True, reason="disabled"))
        elif wanted.disabled is False and before.disabled and await is_revoked(connection, *owner, What.USER, ""):
            keep = self._keep_seconds
            changes.append(await change(connection, *owner, What.USER, revoked=False, keep_seconds=keep))
        elif wanted.role is not None or wanted.granted_scopes is not None:
            changes.append(await demand_new_contexts(connection, *owner))
        return changes

    async def create_api_key(
        self, tenant_id: str, user_id: str, label: str, may_give: MayGive
    ) -> tuple[ApiKeyEntry, str]:
        """A new key of a user, who is entered when not known: what is kept of it, and its text to show once. WIDENING_REFUSED."""
        check_id(user_id, "user_id")
        async with self._tenants.of(tenant_id) as connection:
            values: dict[str, Any] = {"tenant_id": tenant_id, "user_id": user_id, "role": "standard"}
            await connection.execute(NEW_TENANT, values)
            await connection.execute(NEW_USER, {**values, "granted_scopes": []})
            owner = await _find(connection, tenant_id, user_id)
            # Whoever holds the key is that user: nobody makes one of a user who may do more.
            _check_giving(owner.scopes() | set(owner.removed_scopes), may_give, "user_id")
            key = new_api_key(tenant_id, user_id)
            values |= {"api_key_id": key.api_key_id, "secret_sha256": key.digest(), "label": label}
            await connection.execute(NEW_KEY, values)
            return ApiKeyEntry(*(await connection.execute(FIND_KEY, values)).one()), key.text()

    async def list_api_keys(
        self, tenant_id: str, user_id: str, asked: int, token: str
    ) -> tuple[list[ApiKeyEntry], str]:
        """A page of a user's keys by id, and the token of the next page."""
        check_id(user_id, "user_id")
        size, after = _page(asked, token, "keys")
        values = {"tenant_id": tenant_id, "user_id": user_id, "after": after, "count": size + 1}
        async with self._tenants.of(tenant_id) as connection:
            found = [ApiKeyEntry(*row) for row in await connection.execute(PAGE_OF_KEYS, values)]
        return found[:size], write_token("keys", found[size - 1].api_key_id) if len(found) > size else ""

    async def revoke_api_key(self, tenant_id: str, user_id: str, api_key_id: str) -> ApiKeyEntry:
        """Revokes a key and the session that it is; API_KEY_NOT_FOUND."""
        check_id(user_id, "user_id")
        check_id(api_key_id, "api_key_id")
        values = {"tenant_id": tenant_id, "user_id": user_id, "api_key_id": api_key_id}
        async with self._tenants.of(tenant_id) as connection:
            await connection.execute(REVOKE_KEY, values)
            row = (await connection.execute(FIND_KEY, values)).one_or_none()
            if row is None:
                raise CarrelError(
                    Kind.NOT_FOUND,
                    "API_KEY_NOT_FOUND",
                    f"The user has no API key {api_key_id}.",
                    metadata={"api_key_id": api_key_id},
                )
            done = await change(
                connection,
                tenant_id,
                user_id,
                What.SESSION,
                api_key_id,
                revoked=True,
                reason="API key revoked",
                keep_seconds=self._keep_seconds,
            )
        await self._revoking.tell(done)
        return ApiKeyEntry(*row)


def check_role(role: str) -> str:
    """The role as it is; INVALID_ARGUMENT when there is none of this name."""
    if role not in ROLES:
        raise invalid("role", f"role is none of ours; choose one of {', '.join(ROLES)}.")
    return role


def _check_giving(given: Scopes | set[str], may_give: MayGive, field: str) -> None:
    if may_give is not None and (extra := sorted(given - may_give)):
        raise CarrelError(
            Kind.DENIED,
            "WIDENING_REFUSED",
            f"This takes {', '.join(extra)}, which you do not have.",
            metadata={"field": field, "scopes": ",".join(extra)},
        )


async def _find(connection: Connection, tenant_id: str, user_id: str) -> User:
    row = (await connection.execute(FIND_USER, {"tenant_id": tenant_id, "user_id": user_id})).one_or_none()
    if row is None:
        raise user_not_found(user_id)
    return User(*row)


def user_not_found(user_id: str) -> CarrelError:
    """The tenant has no such user."""
    return CarrelError(
        Kind.NOT_FOUND, "USER_NOT_FOUND", f"The tenant has no user {user_id}.", metadata={"user_id": user_id}
    )


def _page(asked: int, token: str, kind: str) -> tuple[int, str]:
    [after] = read_token(token, kind, 1) if token else [""]
    return page_size(asked, 100, 500), after
