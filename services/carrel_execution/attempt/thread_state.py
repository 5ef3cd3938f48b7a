"""The state of a thread, as an agent holds it. Where it is kept is the attempt's business."""

from __future__ import annotations

from carrel.agent import JSON, AgentError, ThreadState
from carrel_execution.attempt.world import World, check_open
from carrel_execution.domain import from_json, to_json

_MAX_BYTES = 256 * 1024


class LiveState(ThreadState):
    """The state within one attempt: all agents of the run see the same."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def get(self) -> JSON:
        await check_open(self._world)
        state_json = await self._world.thread_state()
        return from_json(state_json) if state_json else None

    async def set(self, value: JSON) -> None:
        await check_open(self._world)
        try:
            state_json = to_json(value)
        except ValueError:
            raise AgentError("STATE_INVALID", "The state of the thread must be a JSON value.") from None
        if (size := len(state_json.encode())) > _MAX_BYTES:
            message = f"The state of the thread has {size} bytes; it may have {_MAX_BYTES}."
            raise AgentError("TOO_LARGE", message)
        self._world.set_thread_state(state_json)
