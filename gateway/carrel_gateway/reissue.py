"""A context that was refused because rights have changed since: asked for anew, and the call made once more. It knows no method.

Safe for every method: a service refuses a context before any handler runs. Who is really revoked is refused by the context service then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from carrel_chassis.errors import CarrelError
from carrel_gateway.contexts import Contexts

_REASON = "CONTEXT_REVOKED"


class Reissue:
    """Makes the calls of one credential, `authorization` as it came, beginning with the context that was found for it."""

    def __init__(self, contexts: Contexts, authorization: str | bytes | None, signed_context: bytes) -> None:
        self._contexts = contexts
        self._authorization = authorization
        self._signed_context = signed_context

    async def call(self, make: Callable[[bytes], Awaitable[bytes]]) -> bytes:
        """The answer of `make(signed_context)`."""
        try:
            return await make(self._signed_context)
        except CarrelError as error:
            if error.reason != _REASON:
                raise
        return await make(await self._another())

    async def stream(self, make: Callable[[bytes], AsyncGenerator[bytes, None]]) -> AsyncGenerator[bytes, None]:
        """The messages of `make(signed_context)`; one that has begun is not begun again."""
        begun = False
        try:
            async with aclosing(make(self._signed_context)) as messages:
                async for message in messages:
                    begun = True
                    yield message
            return
        except CarrelError as error:
            if begun or error.reason != _REASON:
                raise
        async with aclosing(make(await self._another())) as messages:
            async for message in messages:
                yield message

    async def current(self) -> bytes:
        """The context of the same credential as it is now, for a call long after the first."""
        return (await self._contexts.of(self._authorization)).signed_context

    async def _another(self) -> bytes:
        return (await self._contexts.instead_of(self._signed_context, self._authorization)).signed_context
