"""Identity: who calls is proved before the request is parsed or a handler runs; what is not proved is refused."""

from __future__ import annotations

from typing import Protocol

from carrel.api.policy.v1 import policy_pb2
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.call import Call, Handler, enter
from carrel_chassis.rpc.layer import Layer
from carrel_chassis.rpc.tls import names_of
from carrel_chassis.signing import ContextVerifier, ServiceVerifier

CONTEXT_KEY = "user-context-bin"
SERVICE_KEY = "service-identity-bin"

Policy = policy_pb2.MethodPolicy


class Authenticator(Protocol):
    """Proves who calls, and sets it on the call; raises CarrelError when it is not proved or not allowed."""

    async def authenticate(self, call: Call) -> None: ...


class Identity(Layer):
    """Lets a call through when its authenticator does."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def wrap(self, proceed: Handler) -> Handler:
        authenticate = self._authenticator.authenticate

        async def handle(call: Call) -> object:
            await authenticate(call)
            enter(call)
            return await proceed(call)

        return handle


class ContextAuthenticator:
    """Identity between services: the signed context of a user, the identity of a service, or both, as the method's policy says."""

    def __init__(self, contexts: ContextVerifier, services: ServiceVerifier) -> None:
        self._contexts = contexts
        self._services = services

    async def authenticate(self, call: Call) -> None:
        policy = call.policy
        match policy.caller:
            case policy_pb2.CALLER_USER:
                await self._prove_user(call)
            case policy_pb2.CALLER_SERVICE:
                self._prove_service(call)
            case policy_pb2.CALLER_SERVICE_FOR_USER:
                self._prove_service(call)
                await self._prove_user(call)
            case policy_pb2.CALLER_USER_OR_SERVICE:
                # A context that came along decides: whoever passes on a user's call does not lend their own rights to it.
                if CONTEXT_KEY in call.metadata or SERVICE_KEY not in call.metadata:
                    await self._prove_user(call)
                else:
                    self._prove_service(call)
            case _:
                raise CarrelError(Kind.DENIED, "POLICY_MISSING", "This method has no policy and takes no calls.")

    async def _prove_user(self, call: Call) -> None:
        raw = call.metadata.get(CONTEXT_KEY)
        if not isinstance(raw, bytes) or not raw:
            raise CarrelError(
                Kind.UNAUTHENTICATED, "CONTEXT_MISSING", "The call carries no user-context-bin; ask the gateway."
            )
        user = await self._contexts.verify(raw)
        policy = call.policy
        for scope in policy.scopes:
            if scope not in user.scopes:
                raise CarrelError(
                    Kind.DENIED, "SCOPE_MISSING", f"The context lacks the scope {scope}.", metadata={"scope": scope}
                )
        if policy.run_context and not (user.run_id and user.agent and user.attempt):
            raise CarrelError(
                Kind.DENIED, "RUN_CONTEXT_REQUIRED", "This method takes only contexts that were issued for a run."
            )
        call.user = user
        call.signed_context = raw

    def _prove_service(self, call: Call) -> None:
        raw = call.metadata.get(SERVICE_KEY)
        if not isinstance(raw, bytes) or not raw:
            raise CarrelError(
                Kind.UNAUTHENTICATED, "SERVICE_IDENTITY_INVALID", "The calling service has not proved who it is."
            )
        service = self._services.verify(raw)
        if (names := names_of(call.context)) and service not in names:
            raise CarrelError(
                Kind.UNAUTHENTICATED,
                "SERVICE_IDENTITY_INVALID",
                f"The calling service says that it is {service}, and its certificate says otherwise.",
            )
        if service not in call.policy.services:
            raise CarrelError(Kind.DENIED, "SERVICE_NOT_ALLOWED", f"{service} may not call this method.")
        call.service = service
