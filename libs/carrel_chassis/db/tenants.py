"""Transactions of administrators: bound to one tenant, under row security, as a role of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.ids import check_id

_BIND = text("SELECT set_config('app.tenant_id', :tenant_id, true)")


class TenantDatabase:
    """Opens transactions that see one tenant. The binding ends with the transaction: a pooled connection carries none over."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def of(self, tenant_id: str) -> AsyncIterator[Connection]:
        """A connection within one transaction of this tenant; committed at the end of the block, rolled back when it raises."""
        check_id(tenant_id, "tenant_id")
        async with database_errors(), self._engine.begin() as connection:
            await connection.execute(_BIND, {"tenant_id": tenant_id})
            yield connection
