"""One call under way: what the layers learn about it and hand on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from carrel.api.policy.v1 import policy_pb2
from carrel_chassis.identity import UserContext


@dataclass(slots=True, eq=False)
class Call:
    """A call from its arrival to its answer. `request` is the serialized message, or an iterator of such for a client stream."""

    method: str
    policy: policy_pb2.MethodPolicy
    request: Any
    context: Any
    """The grpc.aio.ServicerContext."""
    metadata: dict[str, str | bytes]
    call_id: str
    """Made here, for this call alone: the key of its database session and of its line in the log."""
    streaming: bool
    """The answer is a stream."""
    stopping: asyncio.Event
    """Set when the server drains; a stream then ends itself."""
    user: UserContext | None = None
    signed_context: bytes = b""
    """The signed context as it came, to hand on to the next service."""
    service: str = ""
    """The calling service, when it has proved who it is."""
    expire_time: float = field(default=float("inf"))
    """By the event loop's clock; set by the deadline layer."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    progress: dict[str, str] = field(default_factory=dict)
    """How far a stream has come: what the metadata of an error says that ends it, so that its reader can go on from there."""

    def remaining_seconds(self) -> float:
        """How much of the call's time is left, at least 0."""
        return max(0.0, self.expire_time - asyncio.get_running_loop().time())


Handler: TypeAlias = Callable[[Call], Awaitable[Any]]
"""Answers a call: returns the message, or writes the messages of a stream and returns None."""

_current: ContextVar[Call] = ContextVar("carrel_call")


def enter(call: Call) -> None:
    """Makes this the current call of its task. It is never reset: each call has a task of its own, and resetting fails when a client
    leaves during a blocked write (the handler is then closed from another context)."""
    _current.set(call)


def current_call() -> Call:
    """The call that this task answers. For servicers only: they read it at the edge and pass what is needed on as arguments."""
    return _current.get()


def caller() -> UserContext:
    """The verified user of the current call; a method whose policy demands no user has none, and may not ask."""
    user = _current.get().user
    if user is None:
        raise LookupError("this method's policy demands no user")
    return user
