"""Agent instances: a new one for each run and each sub-agent, cleaned whatever happens. Nothing of one reaches another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import metrics

from carrel.agent import Agent, AgentError
from carrel_execution.registry import AgentRegistry


@dataclass(slots=True)
class InstanceCounts:
    """What a process has done with its instances."""

    created: int = 0
    active: int = 0
    cleaned: int = 0


class InstanceFactory:
    """Makes instances of the registered classes."""

    def __init__(self, registry: AgentRegistry) -> None:
        self.registry = registry
        self.counts = InstanceCounts()
        meter = metrics.get_meter("carrel")
        self._active = meter.create_up_down_counter("carrel.agent.instances")
        self._seconds = meter.create_histogram("carrel.agent.creation.duration", unit="s")

    @contextmanager
    def instance(self, name: str) -> Iterator[Agent]:
        """A new instance for the length of the block; afterwards it is emptied, even if something still points to it.

        Raises AgentError when there is no such agent.
        """
        agent_class = self.registry.classes.get(name)
        if agent_class is None:
            raise AgentError(
                "AGENT_NOT_FOUND", f"There is no agent {name}; choose one of {', '.join(self.registry.names)}."
            )
        begin = time.perf_counter()
        agent = agent_class()
        self._seconds.record(time.perf_counter() - begin, {"gen_ai.agent.name": name})
        self._count(+1, name)
        try:
            yield agent
        finally:
            getattr(agent, "__dict__", {}).clear()
            self._count(-1, name)

    def _count(self, change: int, name: str) -> None:
        self.counts.active += change
        if change > 0:
            self.counts.created += 1
        else:
            self.counts.cleaned += 1
        self._active.add(change, {"gen_ai.agent.name": name})
