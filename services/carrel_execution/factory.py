"""Agent instances: a new one for each run and each sub-agent, cleaned whatever happens. Nothing of one reaches another."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from opentelemetry import metrics

from carrel.agent import JSON, Agent, AgentError, RunPort
from carrel_chassis.logs import get_logger
from carrel_execution import keepsakes
from carrel_execution.in_loop import LoopAgent
from carrel_execution.isolation.host import ProcessHost
from carrel_execution.isolation.proxy import ProcessAgent
from carrel_execution.parts import AGENT, PROCESS
from carrel_execution.registry import AgentRegistry

_MICROSECONDS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Instance(Protocol):
    """An agent for the length of one run, wherever it runs."""

    async def run(self, port: RunPort, input: Mapping[str, JSON]) -> JSON:
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
        if self._processes is None or name not in self.registry.classes:
            return False
        return bool(self._isolated & {name, "*"}) or self.registry.isolation(name) == "process"

    def part_kind(self, name: str) -> str:
        """What a run of this agent is a part of its run as: see `parts`."""
        return PROCESS if self.is_isolated(name) else AGENT

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
        self._begun(name)
        cleaned = False
        try:
            if self._processes is not None and self.is_isolated(name):
                memory_mb = min(agent_class.memory_mb, memory_limit_mb or agent_class.memory_mb)
                cleaned = True  # its keeper leaves nothing, however it ends
                yield ProcessAgent(self._processes, name, memory_mb, self._grace_seconds)
            else:
                in_loop = self._in_loop(agent_class)
                try:
                    yield in_loop
                finally:
                    cleaned = await self._cleaned(in_loop)
        finally:
            self._ended(name, cleaned)

    def _in_loop(self, agent_class: type[Agent]) -> LoopAgent:
        begin = time.perf_counter()
        agent = LoopAgent(agent_class())
        self._seconds.record(time.perf_counter() - begin, {"gen_ai.agent.name": agent.name})
        return agent

    async def _cleaned(self, in_loop: LoopAgent) -> bool:
        """Empties the instance, whatever else fails; what it should not have kept is told."""
        agent = in_loop.agent
        try:
            return await in_loop.close()
        finally:
            kept = keepsakes.on_instance(agent)
            getattr(agent, "__dict__", {}).clear()
            if kept:
                self._kept.add(1, {"gen_ai.agent.name": in_loop.name})
                get_logger().warning("agent.kept", agent=in_loop.name, kept=kept)

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
