"""What a run does at a moment, and what of it stops when it is told to. It knows neither agents nor tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

AGENT, TOOL, STEP, PROCESS, MODEL = "agent", "tool", "step", "process", "model"

_STOPPED = {
    AGENT: "The agent has stopped.",
    TOOL: "The call was cancelled; its line among the tool calls says what is known of its effect.",
    STEP: "The step was cancelled; what it had done by then is not undone.",
    PROCESS: "The process has ended.",
    MODEL: "The request was dropped; what the model had written by then may be charged.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Something that a run does: an agent at work, a tool being called."""

    kind: str
    name: str
    step_id: str
    task: asyncio.Task[Any] | None


class Parts:
    """The parts of one attempt. `on_left` is called whenever one has ended."""

    def __init__(self, on_left: Callable[[], None]) -> None:
        self._on_left = on_left
        self._open: dict[int, Part] = {}
        self._count = 0

    @contextmanager
    def part(self, kind: str, name: str, step_id: str) -> Iterator[None]:
        """For the length of the block the run does this."""
        self._count += 1
        number = self._count
        self._open[number] = Part(kind, name, step_id, asyncio.current_task())
        try:
            yield
        finally:
            del self._open[number]
            self._on_left()

    @property
    def only_agents(self) -> bool:
        """Whether no tool and no step is at work, and nothing else but agents that may be waiting."""
        return all(part.kind in (AGENT, PROCESS) for part in self._open.values())

    def now(self) -> Sequence[Part]:
        """What is being done at this moment."""
        return tuple(self._open.values())

    def cancel(self) -> None:
        """Cancels every task in which something is being done: an agent may have begun tasks of its own."""
        for part in self.now():
            if part.task is not None and not part.task.done():
                part.task.cancel()

    def report(self, before: Sequence[Part], seconds: float) -> list[dict[str, str | bool]]:
        """What has become of the parts that there were before: stopped, or not within so many seconds."""
        still = {id(part) for part in self.now()}
        return [_line(part, id(part) not in still, seconds) for part in before]


def _line(part: Part, stopped: bool, seconds: float) -> dict[str, str | bool]:
    late = f"It has not stopped within {seconds:g} s; nothing that it does is accepted any more."
    return {
        "kind": part.kind,
        "name": part.name,
        "step_id": part.step_id,
        "message": _STOPPED.get(part.kind, "It has stopped.") if stopped else late,
        "stopped": stopped,
    }
