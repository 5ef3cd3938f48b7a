"""The moment in which a run stops to wait for its user: when it has asked, and nothing else of it is going on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from carrel.replay import Ask
from carrel_execution.attempt.parts import Parts

_QUIET_SECONDS = 0.02
"""Long enough for an agent that asks several things at once to have asked them all."""


class Asking:
    """What the agents of one attempt ask. `on_quiet` is called once, when the run can be let go."""

    def __init__(self, on_quiet: Callable[[], None]) -> None:
        self.asked: Sequence[Ask] = ()
        """What the run waits for, once it can be let go."""
        self._parts = Parts(self._left)
        self._open: dict[str, Ask] = {}
        self._on_quiet = on_quiet
        self._timer: asyncio.TimerHandle | None = None

    @property
    def parts(self) -> Parts:
        """What the run does; as long as there is a tool or a step among it, the run is held."""
        return self._parts

    async def ask(self, ask: Ask) -> NoReturn:
        """Does not return: the attempt ends here, or goes on without this question when the agent gives it up."""
        self._open[ask.step_id] = ask
        self._left()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            del self._open[ask.step_id]
        raise AssertionError("unreachable")

    def close(self) -> None:
        """The attempt has ended otherwise."""
        if self._timer is not None:
            self._timer.cancel()

    def _left(self) -> None:
        if self._open and not self.asked and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._open and self._parts.only_agents:
            self.asked = tuple(self._open.values())
            self._on_quiet()
