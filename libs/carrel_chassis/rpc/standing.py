"""Standing: a call whose user is revoked while it is under way ends, a stream with its last position, a tool in its middle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import UserContext
from carrel_chassis.revocations import Owner, Revocation, Revocations, What, context_revoked
from carrel_chassis.rpc.call import Call, Handler
from carrel_chassis.rpc.layer import Layer


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A call that goes on, and what has ended it."""

    user: UserContext
    scopes: frozenset[str]
    task: asyncio.Task[object]
    revocation: Revocation | None = None

    def end(self, revocation: Revocation) -> None:
        """Cancels the handler, once; the layer then says why."""
        if self.revocation is None:
            self.revocation = revocation
            self.task.cancel()


class Standing(Layer):
    """Watches the revocations on behalf of all calls under way. It stands inside Identity: before that a call has no user."""

    def __init__(self, revocations: Revocations) -> None:
        self._under_way: dict[Owner, set[_UnderWay]] = {}
        revocations.watch(self._revoked)

    def wrap(self, proceed: Handler) -> Handler:
        under_way = self._under_way

        async def handle(call: Call) -> object:
            user, task = call.user, asyncio.current_task()
            if user is None or task is None:
                return await proceed(call)
            this = _UnderWay(user, frozenset(call.policy.scopes), task)
            of_owner = under_way.setdefault(user.owner, set())
            of_owner.add(this)
            try:
                return await proceed(call)
            except asyncio.CancelledError:
                # Only our own cancellation becomes an answer; a caller that left meanwhile has gone for good.
                if this.revocation is None or task.uncancel() > 0:
                    raise
                raise _ended(call, this.revocation) from None
            finally:
                of_owner.discard(this)
                if not of_owner and under_way.get(user.owner) is of_owner:
                    del under_way[user.owner]

        return handle

    def _revoked(self, revocation: Revocation) -> None:
        for call in list(self._under_way.get(revocation.owner, ())):
            lost_scope = revocation.what is What.SCOPE and revocation.revoked and revocation.value in call.scopes
            if lost_scope or revocation.stops(call.user):
                call.end(revocation)


def _ended(call: Call, revocation: Revocation) -> CarrelError:
    refusal = context_revoked(revocation)
    refusal.metadata.update(call.progress)
    return refusal
