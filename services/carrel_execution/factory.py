"""Agent instances: a new one for each run and each sub-agent, cleaned whatever happens. Nothing of one reaches another."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from opentelemetry import metrics

from carrel.agent import JSON, AgentError, RunContext
from carrel_chassis.logs import get_logger
from carrel_execution import keepsakes
from carrel_execution.in_loop import LoopAgent
from carrel_execution.isolation.host import ProcessHost
from carrel_execution.isolation.proxy import ProcessAgent
from carrel_execution.registry import AgentRegistry

_MICROSECONDS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Instance(Protocol):
    """An agent for the length of one run, wherever it runs."""

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """As Agent.run; raises AgentDied when the agent, or what it ran in, is gone."""


@dataclass(slots=True)
class InstanceCounts:
    """What a process has done with its instances."""

    created: int = 0
    active: int = 0
    cleaned: int = 0
    not_cleaned: int = 0
    """Of the ended ones, those that did not close, or left tasks that would not end."""


class InstanceFactory:
    """Makes instances of the registered classes: in this process's loop, or in processes of their own."""

    def __init__(
        self,
        registry: AgentRegistry,
        processes: ProcessHost | None = None,
        *,
        isolated: Iterable[str] = (),
        grace_seconds: float = 1.0,
    ) -> None:
        """`isolated` are agents that run in processes whatever their class says, "*" for all; `grace_seconds` is how long an agent in
        a process may take to stop when it is cancelled."""
        self.registry = registry
        self.counts = InstanceCounts()
        self._processes = processes
        self._isolated = set(isolated)
        self._grace_seconds = grace_seconds
        meter = metrics.get_meter("carrel")
        self._active = meter.create_up_down_counter("carrel.agent.instances")
        self._cleanups = meter.create_counter("carrel.agent.cleanups")
        self._kept = meter.create_counter("carrel.agent.kept")
        self._seconds = meter.create_histogram(
            "carrel.agent.creation.duration",
            unit="s",
            explicit_bucket_boundaries_advisory=[each / 1e6 for each in _MICROSECONDS],
        )

    def isolate(self, name: str) -> None:
        """From now on this agent runs in processes of its own."""
        self._isolated.add(name)

    def is_isolated(self, name: str) -> bool:
        """Whether this agent runs in a process of its own."""
        if self._processes is None:
            return False
        return bool(self._isolated & {name, "*"}) or self.registry.isolation(name) == "process"

    @asynccontextmanager
    async def instance(self, name: str, memory_limit_mb: int = 0) -> AsyncIterator[Instance]:
        """A new instance for the length of the block; afterwards nothing of it is left, in memory or running.

        `memory_limit_mb` is its user's own, for processes; 0 is none. Raises AgentError when there is no such agent.
        """
        agent_class = self.registry.classes.get(name)
        if agent_class is None:
            raise AgentError(
                "AGENT_NOT_FOUND", f"There is no agent {name}; choose one of {', '.join(self.registry.names)}."
            )
        if self._processes is not None and self.is_isolated(name):
            memory_mb = min(agent_class.memory_mb, memory_limit_mb or agent_class.memory_mb)
            yield ProcessAgent(self._processes, name, memory_mb, self._grace_seconds)
            return
        begin = time.perf_counter()
        agent = agent_class()
        in_loop = LoopAgent(agent)
        self._seconds.record(time.perf_counter() - begin, {"gen_ai.agent.name": name})
        self._begun(name)
        clean = False
        try:
            yield in_loop
        finally:
            try:
                clean = await in_loop.close()
            finally:
                self._ended(name, clean)
                kept = keepsakes.on_instance(agent)
                getattr(agent, "__dict__", {}).clear()
            if kept:
                self._kept.add(1, {"gen_ai.agent.name": name})
                get_logger().warning("agent.kept", agent=name, kept=kept)

    def _begun(self, name: str) -> None:
        self.counts.created += 1
        self.counts.active += 1
        self._active.add(1, {"gen_ai.agent.name": name})

    def _ended(self, name: str, clean: bool) -> None:
        self.counts.active -= 1
        if clean:
            self.counts.cleaned += 1
        else:
            self.counts.not_cleaned += 1
        self._active.add(-1, {"gen_ai.agent.name": name})
        self._cleanups.add(1, {"gen_ai.agent.name": name, "clean": clean})
