"""DirectoryService as it is called: proto in, proto out. Whose tenant it is, is checked here; what may be given, below."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from carrel.api.context.v1 import directory_service_pb2 as pb
from carrel.api.context.v1 import directory_service_pb2_grpc as rpc
from carrel_chassis.signing import limits_from_message, limits_to_message
from carrel_context.admins import check_tenant, may_give
from carrel_context.limits import LimitOperations
from carrel_context.people import ApiKeyEntry, PeopleOperations, Tenant, User, UserChange


class DirectoryServicer(rpc.DirectoryServiceServicer):
    """See the proto for what each method promises."""

    def __init__(
        self, people: PeopleOperations, limits: LimitOperations, services: Mapping[str, Ed25519PublicKey]
    ) -> None:
        self._people = people
        self._limits = limits
        self._services = services

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.CreateTenantResponse:
        return pb.CreateTenantResponse(
            tenant=_tenant(await self._people.create_tenant(check_tenant(request.tenant_id)))
        )

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        found, token = await self._people.list_tenants(request.page_size, request.page_token)
        return pb.ListTenantsResponse(tenants=[_tenant(tenant) for tenant in found], next_page_token=token)

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.CreateUserResponse:
        user = await self._people.create_user(
            check_tenant(request.tenant_id),
            request.user_id,
            request.role,
            frozenset(request.granted_scopes),
            may_give(),
        )
        return pb.CreateUserResponse(user=_user(user))

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        return pb.GetUserResponse(
            user=_user(await self._people.get_user(check_tenant(request.tenant_id), request.user_id))
        )

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        tenant_id = check_tenant(request.tenant_id)
        found, token = await self._people.list_users(tenant_id, request.page_size, request.page_token)
        return pb.ListUsersResponse(users=[_user(user) for user in found], next_page_token=token)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.UpdateUserResponse:
        tenant_id = check_tenant(request.tenant_id)
        wanted = UserChange(
            role=request.role if request.HasField("role") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
            granted_scopes=_scopes(request, "granted_scopes"),
            removed_scopes=_scopes(request, "removed_scopes"),
        )
        return pb.UpdateUserResponse(
            user=_user(await self._people.update_user(tenant_id, request.user_id, wanted, may_give()))
        )

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        tenant_id = check_tenant(request.tenant_id)
        found, token = await self._people.list_api_keys(
            tenant_id, request.user_id, request.page_size, request.page_token
        )
        return pb.ListApiKeysResponse(api_keys=[_api_key(key) for key in found], next_page_token=token)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.RevokeApiKeyResponse:
        tenant_id = check_tenant(request.tenant_id)
        key = await self._people.revoke_api_key(tenant_id, request.user_id, request.api_key_id)
        return pb.RevokeApiKeyResponse(api_key=_api_key(key))

    async def GetLimits(self, request: pb.GetLimitsRequest, context: Any) -> pb.GetLimitsResponse:
        found, effective = await self._limits.get(check_tenant(request.tenant_id), request.user_id)
        return pb.GetLimitsResponse(set=limits_to_message(found), effective=limits_to_message(effective))

    async def SetLimits(self, request: pb.SetLimitsRequest, context: Any) -> pb.SetLimitsResponse:
        limits = limits_from_message(request.limits)
        found, effective = await self._limits.set(check_tenant(request.tenant_id), request.user_id, limits)
        return pb.SetLimitsResponse(set=limits_to_message(found), effective=limits_to_message(effective))

    async def ListServiceIdentities(
        self, request: pb.ListServiceIdentitiesRequest, context: Any
    ) -> pb.ListServiceIdentitiesResponse:
        return pb.ListServiceIdentitiesResponse(
            identities=[
                pb.ServiceIdentityKey(service=name, fingerprint=hashlib.sha256(key.public_bytes_raw()).hexdigest())
                for name, key in sorted(self._services.items())
            ]
        )


def _scopes(request: pb.UpdateUserRequest, field: str) -> frozenset[str] | None:
    return frozenset(getattr(request, field).scopes) if request.HasField(field) else None  # type: ignore[arg-type]


def _tenant(tenant: Tenant) -> pb.Tenant:
    message = pb.Tenant(tenant_id=tenant.tenant_id)
    message.create_time.FromDatetime(tenant.create_time)
    return message


def _user(user: User) -> pb.User:
    message = pb.User(
        tenant_id=user.tenant_id,
        user_id=user.user_id,
        role=user.role,
        disabled=user.disabled,
        granted_scopes=user.granted_scopes,
        removed_scopes=user.removed_scopes,
        scopes=sorted(user.scopes()),
        revoked=user.revoked,
    )
    message.create_time.FromDatetime(user.create_time)
    return message


def _api_key(key: ApiKeyEntry) -> pb.ApiKey:
    message = pb.ApiKey(api_key_id=key.api_key_id, label=key.label)
    message.create_time.FromDatetime(key.create_time)
    if key.revoke_time is not None:
        message.revoke_time.FromDatetime(key.revoke_time)
    return message
