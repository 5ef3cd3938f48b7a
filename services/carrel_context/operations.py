"""What the context service does: one method for each RPC, in values, within one transaction of one user."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from carrel.api.context.v1 import user_context_pb2 as pb
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import ResourceLimits, UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.signing import ContextVerifier
from carrel_context import domain
from carrel_context.api_keys import parse_api_key
from carrel_context.domain import Narrowing, Principal
from carrel_context.keys import KeyStore
from carrel_context.repository import Directory, StoredKey

Clock = Callable[[], float]


class Operations:
    """Issues contexts. `provision` says whether an authenticated user that is not known yet is entered; `limits` and `tenant_limits`
    hold where none are set."""

    def __init__(
        self,
        sessions: UserSessions,
        keys: KeyStore,
        clock: Clock,
        *,
        provision: bool,
        grant_max_age_seconds: float,
        limits: ResourceLimits,
        tenant_limits: ResourceLimits,
    ) -> None:
        self._sessions = sessions
        self._keys = keys
        self._clock = clock
        self._provision = provision
        self._limits = limits
        self._tenant_limits = tenant_limits
        self._grant_max_age_seconds = grant_max_age_seconds
        self._grants = ContextVerifier(keys.of_grants(), "agent-execution", clock)

    async def issue_for_user(
        self,
        call_id: str,
        tenant_id: str,
        user_id: str,
        *,
        session_id: str,
        request_id: str,
        connection_id: str,
        lifetime_seconds: float,
        kind: str = domain.TOKEN_SESSION,
    ) -> pb.SignedUserContext:
        """The context of a user whom the gateway has authenticated. With a kind the session is one that its user sees."""
        async with self._directory(call_id, tenant_id, user_id) as directory:
            principal = await directory.user(session_id)
            if principal is None and self._provision:
                await directory.add_user()
                principal = await directory.user(session_id)
            await _see(directory, principal, session_id, kind)
        return self._issue(principal, session_id, request_id, connection_id, lifetime_seconds)

    async def issue_for_job(
        self, call_id: str, grant: bytes, *, request_id: str, lifetime_seconds: float
    ) -> pb.SignedUserContext:
        """The context of a job that a user has scheduled, from the context it was scheduled with; the user is looked up anew."""
        granted = await self._grants.verify_signature(grant)
        principal = await self.principal(call_id, *granted.owner, granted.session_id, granted.run_id)
        if principal is None:
            raise domain.credential_invalid("The user of the schedule is no longer known.")
        user = domain.for_job(
            granted,
            self._with_defaults(principal),
            request_id=request_id,
            now=self._clock(),
            lifetime_seconds=lifetime_seconds,
        )
        return self._keys.signer.sign(user)

    async def issue_for_service(
        self,
        call_id: str,
        tenant_id: str,
        service: str,
        *,
        request_id: str,
        connection_id: str,
        lifetime_seconds: float,
    ) -> pb.SignedUserContext:
        """The context of a service in a tenant, as a user of its own whose rights are administered like anybody's."""
        name = f"service.{service}"
        return await self.issue_for_user(
            call_id,
            tenant_id,
            name,
            session_id=name,
            request_id=request_id,
            connection_id=connection_id,
            lifetime_seconds=lifetime_seconds,
            kind="",
        )

    async def principal(
        self, call_id: str, tenant_id: str, user_id: str, session_id: str, run_id: str
    ) -> Principal | None:
        """The user as the directory knows it now, with what stands against this session and run; None when not known."""
        async with self._directory(call_id, tenant_id, user_id) as directory:
            return await directory.user(session_id, run_id)

    async def issue_for_api_key(
        self, call_id: str, text: str, *, request_id: str, connection_id: str, lifetime_seconds: float
    ) -> pb.SignedUserContext:
        """The context of an API key's owner; the key's id is the session."""
        key = parse_api_key(text)
        async with self._directory(call_id, key.tenant_id, key.user_id) as directory:
            principal, digest = await directory.api_key(key.api_key_id) or (None, b"")
            # The comparison is made whether the key exists or not: both take the same time.
            if not hmac.compare_digest(digest, key.digest()):
                principal = None
            await _see(directory, principal, key.api_key_id, domain.API_KEY_SESSION)
        return self._issue(principal, key.api_key_id, request_id, connection_id, lifetime_seconds)

    def _issue(
        self, principal: Principal | None, session_id: str, request_id: str, connection_id: str, lifetime_seconds: float
    ) -> pb.SignedUserContext:
        if principal is None:
            raise domain.credential_invalid("The credential is not known or has been revoked; get a new one.")
        user = domain.issue(
            self._with_defaults(principal),
            session_id=session_id,
            request_id=request_id,
            connection_id=connection_id,
            now=self._clock(),
            lifetime_seconds=lifetime_seconds,
        )
        return self._keys.signer.sign(user)

    def _with_defaults(self, principal: Principal) -> Principal:
        return replace(
            principal,
            limits=domain.limits_over(principal.limits, self._limits),
            tenant_limits=domain.limits_over(principal.tenant_limits, self._tenant_limits),
        )

    def exchange(self, parent: UserContext, wanted: Narrowing) -> pb.SignedUserContext:
        """A narrower context; needs nothing but the parent."""
        return self._keys.signer.sign(domain.narrow(parent, wanted, self._clock()))

    async def issue_for_run(
        self, call_id: str, grant: bytes, *, run_id: str, thread_id: str, agent: str, attempt: int, closing: bool
    ) -> pb.SignedUserContext:
        """The context of an attempt, from the grant; the user is looked up anew, unless it is for closing alone."""
        granted = await self._grants.verify_signature(grant)
        now = self._clock()
        if now > granted.issue_time + self._grant_max_age_seconds:
            raise CarrelError(
                Kind.UNAUTHENTICATED, "CONTEXT_EXPIRED", "The grant of the run is too old; start it again."
            )
        if closing:
            user = domain.for_closing(
                granted, run_id=run_id, thread_id=thread_id, agent=agent, attempt=attempt, now=now
            )
            return self._keys.signer.sign(user)
        async with self._directory(call_id, *granted.owner) as directory:
            principal = await directory.user(granted.session_id, run_id)
        if principal is None:
            raise domain.credential_invalid("The user of the run is no longer known.")
        user = domain.for_run(
            granted,
            self._with_defaults(principal),
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            attempt=attempt,
            now=now,
        )
        return self._keys.signer.sign(user)

    def signing_keys(self) -> list[StoredKey]:
        """The signing keys that are active, newest first."""
        return self._keys.active()

    async def rotate_signing_keys(self) -> StoredKey:
        """The next signing key, announced; ROTATION_TOO_SOON while two are active."""
        return await self._keys.rotate()

    @asynccontextmanager
    async def _directory(self, call_id: str, tenant_id: str, user_id: str) -> AsyncIterator[Directory]:
        """The rows of one owner. Nobody has proved to be this owner yet: the binding only narrows what the look-up can see."""
        check_id(tenant_id, "tenant_id")
        check_id(user_id, "user_id")
        nobody = UserContext(
            context_id=new_id("ctx"),
            tenant_id=tenant_id,
            user_id=user_id,
            session_id="directory",
            scopes=frozenset(),
            audiences=frozenset(),
            issue_time=0.0,
            expire_time=0.0,
            request_id=call_id,
        )
        async with self._sessions.open(nobody, call_id) as connection:
            yield Directory(connection, tenant_id, user_id)


async def _see(directory: Directory, principal: Principal | None, session_id: str, kind: str) -> None:
    """Writes the session down when it is in use and was not seen lately: most contexts are issued without a commit."""
    if kind and principal is not None and not (principal.session_seen or principal.disabled or principal.revoked):
        await directory.see_session(session_id, kind)
