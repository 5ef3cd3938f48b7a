"""Inspects contexts: reads the bytes, asks the keys and the directory, and has every check made that can be made."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from carrel.api.context.v1 import user_context_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_chassis.revocations import CLOSING_SCOPE
from carrel_chassis.signing import Clock, check_signature, parse_signed
from carrel_context import inspection
from carrel_context.domain import Principal
from carrel_context.inspection import Check, Claims, Outcome, failed, not_made, passed
from carrel_context.keys import KeyStore
from carrel_context.operations import Operations


@dataclass(frozen=True, slots=True)
class Report:
    """What a context is worth, and what it says of itself."""

    checks: list[Check]
    context: pb.UserContext | None

    @property
    def score(self) -> int:
        """0 to 100."""
        return inspection.score(self.checks)


class Inspector:
    """Makes reports."""

    def __init__(self, keys: KeyStore, operations: Operations, clock: Clock) -> None:
        self._keys = keys
        self._operations = operations
        self._clock = clock

    def read(self, raw: bytes) -> tuple[Check, pb.SignedUserContext | None, pb.UserContext | None]:
        """Whether the bytes have the one form of a signed context, and what is in them."""
        try:
            signed = parse_signed(raw)
            context = pb.UserContext.FromString(signed.context)
        except CarrelError as error:
            return failed("form", error.reason, error.message), None, None
        except DecodeError:
            return failed("form", "CONTEXT_MALFORMED", "What is signed is no context."), None, None
        return passed("form", f"It has {len(raw)} bytes."), signed, context

    async def report(self, call_id: str, raw: bytes, audience: str) -> Report:
        """All checks, in the order in which a service makes them."""
        form, signed, context = self.read(raw)
        if signed is None or context is None:
            rest = (not_made(name, "There is no context to look at.") for name in inspection.WEIGHTS if name != "form")
            return Report([form, *rest], None)
        claims = _claims(context)
        ids = inspection.check_ids(claims)
        checks = [
            form,
            await self._signature(signed),
            inspection.check_times(claims, self._clock()),
            inspection.check_audience(claims, audience),
            ids,
            inspection.check_depth(claims),
        ]
        if ids.outcome is not Outcome.PASSED:
            checks += [not_made(name, "Its ids name nobody.") for name in ("session", "permissions")]
        else:
            principal = await self._principal(call_id, context)
            checks += [inspection.check_session(principal), _permissions(claims, principal)]
        return Report(checks, context)

    async def _signature(self, signed: pb.SignedUserContext) -> Check:
        try:
            await check_signature(signed, self._keys)
        except CarrelError as error:
            return failed("signature", error.reason, error.message)
        return passed("signature", f"It is signed with {signed.key_id}.")

    async def _principal(self, call_id: str, context: pb.UserContext) -> Principal | None:
        return await self._operations.principal(
            call_id, context.tenant_id, context.user_id, context.session_id, context.run_id
        )


def _permissions(claims: Claims, principal: Principal | None) -> Check:
    if claims.scopes == {CLOSING_SCOPE}:
        return passed("permissions", "It may only write the end of its run, which needs no permission of the user.")
    return inspection.check_permissions(claims, principal)


def _claims(context: pb.UserContext) -> Claims:
    names = ("context_id", "tenant_id", "user_id", "session_id", "request_id", "thread_id", "run_id", "connection_id")
    return Claims(
        ids={name: getattr(context, name) for name in names},
        scopes=frozenset(context.scopes),
        audiences=frozenset(context.audiences),
        issue_time=context.issue_time.ToMicroseconds() / 1e6,
        expire_time=context.expire_time.ToMicroseconds() / 1e6,
        depth=context.depth,
        parent_context_id=context.parent_context_id,
    )
