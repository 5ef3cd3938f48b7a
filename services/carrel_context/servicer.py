"""The context service's RPCs: proto in, proto out."""

from __future__ import annotations

from typing import Any

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import MAX_LIFETIME_SECONDS
from carrel_chassis.ids import check_id, is_id
from carrel_chassis.rpc.call import caller, current_call
from carrel_chassis.signing import limits_from_message
from carrel_context.admins import check_tenant, may_give
from carrel_context.domain import Narrowing
from carrel_context.inspection import Check
from carrel_context.inspector import Inspector
from carrel_context.operations import Operations
from carrel_context.people import PeopleOperations
from carrel_context.repository import StoredKey

_MAX_LABEL = 128
_ASKERS = {
    "user": {"gateway", "operator"},
    "api_key": {"gateway", "operator"},
    "scheduled_job": {"agent-execution", "operator"},
}
"""Who may ask for a context of each kind; any service for one of its own."""


class ContextServicer(rpc.ContextServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, operations: Operations, people: PeopleOperations, inspector: Inspector) -> None:
        self._operations = operations
        self._people = people
        self._inspector = inspector

    async def IssueContext(self, request: pb.IssueContextRequest, context: Any) -> pb.IssueContextResponse:
        call_id = current_call().call_id
        common = {
            "request_id": check_id(request.request_id, "request_id"),
            "connection_id": request.connection_id and check_id(request.connection_id, "connection_id"),
        }
        lifetime = _lifetime(request)
        kind = request.WhichOneof("principal")
        _check_kind(kind)
        match kind:
            case "user":
                user = request.user
                session_id = check_id(user.session_id, "user.session_id")
                signed = await self._operations.issue_for_user(
                    call_id, user.tenant_id, user.user_id, session_id=session_id, lifetime_seconds=lifetime, **common
                )
            case "api_key":
                signed = await self._operations.issue_for_api_key(
                    call_id, request.api_key, lifetime_seconds=lifetime, **common
                )
            case "scheduled_job":
                grant = request.scheduled_job.grant.SerializeToString(deterministic=True)
                signed = await self._operations.issue_for_job(
                    call_id, grant, request_id=common["request_id"], lifetime_seconds=lifetime
                )
            case _:
                signed = await self._operations.issue_for_service(
                    call_id, request.service.tenant_id, current_call().service, lifetime_seconds=lifetime, **common
                )
        return pb.IssueContextResponse(signed_context=signed)

    async def ExchangeContext(self, request: pb.ExchangeContextRequest, context: Any) -> pb.ExchangeContextResponse:
        wanted = Narrowing(
            scopes=frozenset(request.scopes),
            audiences=frozenset(request.audiences),
            limits=limits_from_message(request.limits) if request.HasField("limits") else None,
            expire_time=request.expire_time.ToMicroseconds() / 1e6 if request.HasField("expire_time") else 0.0,
            thread_id=request.thread_id,
        )
        return pb.ExchangeContextResponse(signed_context=self._operations.exchange(caller(), wanted))

    async def IssueRunContext(self, request: pb.IssueRunContextRequest, context: Any) -> pb.IssueRunContextResponse:
        if request.attempt < 1:
            raise invalid("attempt", "attempt is 0; the first attempt is 1.")
        signed = await self._operations.issue_for_run(
            current_call().call_id,
            request.grant.SerializeToString(deterministic=True),
            run_id=request.run_id,
            thread_id=request.thread_id,
            agent=request.agent,
            attempt=request.attempt,
            closing=request.closing,
        )
        return pb.IssueRunContextResponse(signed_context=signed)

    async def InspectContext(self, request: pb.InspectContextRequest, context: Any) -> pb.InspectContextResponse:
        if len(request.audience) > _MAX_LABEL:
            raise invalid("audience", f"audience has {len(request.audience)} characters; it has at most {_MAX_LABEL}.")
        _, _, found = self._inspector.read(request.signed_context)
        if found is not None and is_id(found.tenant_id):
            check_tenant(found.tenant_id)
        report = await self._inspector.report(current_call().call_id, request.signed_context, request.audience)
        return pb.InspectContextResponse(
            score=report.score, checks=[_check(check) for check in report.checks], context=report.context
        )

    async def ListSigningKeys(self, request: pb.ListSigningKeysRequest, context: Any) -> pb.ListSigningKeysResponse:
        return pb.ListSigningKeysResponse(keys=[_signing_key(key) for key in self._operations.signing_keys()])

    async def RotateSigningKeys(
        self, request: pb.RotateSigningKeysRequest, context: Any
    ) -> pb.RotateSigningKeysResponse:
        return pb.RotateSigningKeysResponse(key=_signing_key(await self._operations.rotate_signing_keys()))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        if len(request.label) > _MAX_LABEL:
            raise invalid("label", f"label has {len(request.label)} characters; it has at most {_MAX_LABEL}.")
        tenant_id = check_tenant(request.tenant_id)
        key, text = await self._people.create_api_key(tenant_id, request.user_id, request.label, may_give())
        return pb.CreateApiKeyResponse(api_key_id=key.api_key_id, api_key=text)


def _check_kind(kind: str | None) -> None:
    """Each service asks for the kinds of contexts that its work needs."""
    if kind is None:
        raise invalid("principal", "Say for whom the context is: a user, an API key, a scheduled job or the service.")
    service = current_call().service
    if service not in _ASKERS.get(kind, {service}):
        raise CarrelError(Kind.DENIED, "SERVICE_NOT_ALLOWED", f"{service} may not ask for the context of: {kind}.")


def _check(check: Check) -> pb.ContextCheck:
    return pb.ContextCheck(
        name=check.name,
        outcome=pb.CheckOutcome.Value(f"CHECK_OUTCOME_{check.outcome.value}"),
        reason=check.reason,
        message=check.message,
        weight=check.weight,
    )


def _signing_key(key: StoredKey) -> pb.SigningKey:
    message = pb.SigningKey(key_id=key.key_id, public_key=key.public_key)
    message.sign_time.FromMicroseconds(round(key.sign_time * 1e6))
    return message


def _lifetime(request: pb.IssueContextRequest) -> float:
    if not request.HasField("lifetime"):
        return MAX_LIFETIME_SECONDS
    seconds = request.lifetime.ToMicroseconds() / 1e6
    if not 0 < seconds <= MAX_LIFETIME_SECONDS:
        raise invalid(
            "lifetime", f"lifetime is {seconds:g} s; it is more than 0 and at most {MAX_LIFETIME_SECONDS:g} s."
        )
    return seconds
