"""What an administrator may reach: their own tenant; all tenants with the scope for it, or as the operator."""

from __future__ import annotations

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import check_id
from carrel_chassis.rpc.call import current_call

ALL_TENANTS = "admin.tenants"
"""The scope of those who administer more than their own tenant."""


def check_tenant(tenant_id: str) -> str:
    """The tenant of a request, if the caller may act in it; SCOPE_MISSING says nothing of whether it exists."""
    check_id(tenant_id, "tenant_id")
    user = current_call().user
    if user is not None and user.tenant_id != tenant_id and ALL_TENANTS not in user.scopes:
        raise CarrelError(
            Kind.DENIED,
            "SCOPE_MISSING",
            f"Another tenant takes the scope {ALL_TENANTS}.",
            metadata={"scope": ALL_TENANTS},
        )
    return tenant_id


def may_give() -> frozenset[str] | None:
    """The scopes that the caller may give to others: those they have; None for the operator, who may give all."""
    user = current_call().user
    return None if user is None else user.scopes
