"""What administrators do, each with the scopes of their role: in their own tenant, or with "admin.tenants" in all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from carrel._calls import Caller
from carrel._client.base import JSON, listed, to_json
from carrel.api.context.v1.context_service_pb2 import SigningKey
from carrel.api.context.v1.directory_service_pb2 import ApiKey, ScopeList, ServiceIdentityKey, Tenant, User
from carrel.api.context.v1.revocation_service_pb2 import Revocation, RevocationKind
from carrel.api.context.v1.user_context_pb2 import ResourceLimits
from carrel.api.gateway.v1 import admin_service_pb2 as pb
from carrel.api.gateway.v1 import admin_service_pb2_grpc as rpc
from carrel.api.runs.v1.run_pb2 import RunStatistics
from carrel.api.runs.v1.worker_pb2 import Worker
from carrel.api.tools.v1.policy_service_pb2 import ToolDecision, ToolPolicy, ToolRule


class Admin:
    """The administrator's calls; found at `client.admin`. PermissionDenied (SCOPE_MISSING) names the scope that a caller lacks."""

    def __init__(self, stub: rpc.AdminServiceAsyncStub, caller: Caller) -> None:
        self._stub = stub
        self._caller = caller

    async def create_tenant(self, tenant_id: str) -> Tenant:
        """Enters a tenant; safe to repeat."""
        return (await self._caller.repeat(self._stub.CreateTenant, pb.CreateTenantRequest(tenant_id=tenant_id))).tenant

    def list_tenants(self, *, page_size: int = 0) -> AsyncGenerator[Tenant, None]:
        """The tenants by id; pages are fetched as they are needed."""
        return listed(self._caller, self._stub.ListTenants, pb.ListTenantsRequest(page_size=page_size), "tenants")

    async def create_user(
        self, tenant_id: str, user_id: str, role: str = "", granted_scopes: Sequence[str] = ()
    ) -> User:
        """Enters a user with a role, "standard" unless said; Conflict (USER_EXISTS) for one that is known."""
        request = pb.CreateUserRequest(tenant_id=tenant_id, user_id=user_id, role=role, granted_scopes=granted_scopes)
        return (await self._caller.once(self._stub.CreateUser, request)).user

    async def get_user(self, tenant_id: str, user_id: str) -> User:
        """A user with what the user may do now."""
        request = pb.GetUserRequest(tenant_id=tenant_id, user_id=user_id)
        return (await self._caller.repeat(self._stub.GetUser, request)).user

    def list_users(self, tenant_id: str, *, page_size: int = 0) -> AsyncGenerator[User, None]:
        """The users of a tenant by id; pages are fetched as they are needed."""
        request = pb.ListUsersRequest(tenant_id=tenant_id, page_size=page_size)
        return listed(self._caller, self._stub.ListUsers, request, "users")

    async def update_user(
        self,
        tenant_id: str,
        user_id: str,
        *,
        role: str | None = None,
        disabled: bool | None = None,
        granted_scopes: Sequence[str] | None = None,
        removed_scopes: Sequence[str] | None = None,
    ) -> User:
        """Changes what is not None; it holds everywhere within 2 seconds."""
        request = pb.UpdateUserRequest(
            tenant_id=tenant_id,
            user_id=user_id,
            role=role,
            disabled=disabled,
            granted_scopes=None if granted_scopes is None else ScopeList(scopes=granted_scopes),
            removed_scopes=None if removed_scopes is None else ScopeList(scopes=removed_scopes),
        )
        return (await self._caller.repeat(self._stub.UpdateUser, request)).user

    async def create_api_key(self, tenant_id: str, user_id: str, label: str = "") -> pb.CreateApiKeyResponse:
        """A new API key; its secret is in this answer only."""
        request = pb.CreateApiKeyRequest(tenant_id=tenant_id, user_id=user_id, label=label)
        return await self._caller.once(self._stub.CreateApiKey, request)

    def list_api_keys(self, tenant_id: str, user_id: str, *, page_size: int = 0) -> AsyncGenerator[ApiKey, None]:
        """The API keys of a user, without their secrets."""
        request = pb.ListApiKeysRequest(tenant_id=tenant_id, user_id=user_id, page_size=page_size)
        return listed(self._caller, self._stub.ListApiKeys, request, "api_keys")

    async def revoke_api_key(self, tenant_id: str, user_id: str, api_key_id: str) -> ApiKey:
        """Revokes an API key; what it has opened ends within 2 seconds."""
        request = pb.RevokeApiKeyRequest(tenant_id=tenant_id, user_id=user_id, api_key_id=api_key_id)
        return (await self._caller.repeat(self._stub.RevokeApiKey, request)).api_key

    async def get_limits(self, tenant_id: str, user_id: str = "") -> pb.GetLimitsResponse:
        """The limits of a user, or without one of the tenant: what is set, and what holds."""
        request = pb.GetLimitsRequest(tenant_id=tenant_id, user_id=user_id)
        return await self._caller.repeat(self._stub.GetLimits, request)

    async def set_limits(self, tenant_id: str, limits: ResourceLimits, user_id: str = "") -> pb.SetLimitsResponse:
        """Sets all limits of a user, or without one of the tenant; 0 sets one back to the default."""
        request = pb.SetLimitsRequest(tenant_id=tenant_id, user_id=user_id, limits=limits)
        return await self._caller.repeat(self._stub.SetLimits, request)

    async def revoke(
        self, tenant_id: str, user_id: str, kind: RevocationKind.ValueType, value: str = "", reason: str = ""
    ) -> Revocation:
        """Revokes a user, or the session, run or scope that `value` names, everywhere within 2 seconds."""
        request = pb.RevokeRequest(tenant_id=tenant_id, user_id=user_id, kind=kind, value=value, reason=reason)
        return (await self._caller.repeat(self._stub.Revoke, request)).revocation

    async def restore(
        self, tenant_id: str, user_id: str, kind: RevocationKind.ValueType, value: str = ""
    ) -> Revocation:
        """Lifts a revocation; what was issued before stays refused."""
        request = pb.RestoreRequest(tenant_id=tenant_id, user_id=user_id, kind=kind, value=value)
        return (await self._caller.once(self._stub.Restore, request)).revocation

    async def inspect_context(self, signed_context: bytes, audience: str = "") -> pb.InspectContextResponse:
        """What a signed context is worth to the service that refused it, check by check."""
        request = pb.InspectContextRequest(signed_context=signed_context, audience=audience)
        return await self._caller.repeat(self._stub.InspectContext, request)

    async def rotate_signing_keys(self) -> SigningKey:
        """Makes and announces the next key that contexts are signed with; Conflict (ROTATION_TOO_SOON) while two are active."""
        return (await self._caller.once(self._stub.RotateSigningKeys, pb.RotateSigningKeysRequest())).key

    async def list_service_identities(self) -> list[ServiceIdentityKey]:
        """The services that may prove who they are."""
        request = pb.ListServiceIdentitiesRequest()
        return list((await self._caller.repeat(self._stub.ListServiceIdentities, request)).identities)

    async def get_overall_run_statistics(self, days: int = 0) -> list[RunStatistics]:
        """How the runs of the tenant's users ended, by agent; with "admin.tenants" those of all tenants."""
        request = pb.GetOverallRunStatisticsRequest(days=days)
        return list((await self._caller.repeat(self._stub.GetOverallRunStatistics, request)).statistics)

    async def inspect_worker(self) -> Worker:
        """One process that works on runs: its instances of agents, its memory, what it has left out and how it is set."""
        return (await self._caller.repeat(self._stub.InspectWorker, pb.InspectWorkerRequest())).worker

    async def get_tool_policy(self) -> ToolPolicy:
        """The rules of the caller's tenant for tools."""
        return (await self._caller.repeat(self._stub.GetToolPolicy, pb.GetToolPolicyRequest())).policy

    async def set_tool_policy(self, rules: Sequence[ToolRule], expected_version: int) -> ToolPolicy:
        """Replaces all rules; Conflict (POLICY_CHANGED) when `expected_version` is not the one in effect."""
        request = pb.SetToolPolicyRequest(rules=rules, expected_version=expected_version)
        return (await self._caller.once(self._stub.SetToolPolicy, request)).policy

    async def test_tool_policy(
        self,
        user_id: str,
        tool: str,
        arguments: JSON = None,
        *,
        scopes: Sequence[str] = (),
        rules: Sequence[ToolRule] = (),
    ) -> pb.TestToolPolicyResponse:
        """What would be decided if the user called the tool now; nothing is run."""
        arguments_json = "" if arguments is None else to_json(arguments)
        request = pb.TestToolPolicyRequest(
            user_id=user_id, tool=tool, arguments_json=arguments_json, scopes=scopes, rules=rules
        )
        return await self._caller.repeat(self._stub.TestToolPolicy, request)

    def list_tool_decisions(self, user_id: str = "", *, page_size: int = 0) -> AsyncGenerator[ToolDecision, None]:
        """What was decided on tool calls in the caller's tenant, newest first, of one user or of all."""
        request = pb.ListTenantToolDecisionsRequest(user_id=user_id, page_size=page_size)
        return listed(self._caller, self._stub.ListTenantToolDecisions, request, "decisions")
