"""Agent instances: a new one for each run and each sub-agent, cleaned whatever happens. Nothing of one reaches another."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from carrel.agent import JSON, Agent, AgentError, RunPort
from carrel_chassis.logs import get_logger
from carrel_execution.agents import keepsakes
from carrel_execution.agents.in_loop import LoopAgent
from carrel_execution.agents.instance_counts import InstanceCounts
from carrel_execution.agents.isolation.host import ProcessHost
from carrel_execution.agents.isolation.proxy import ProcessAgent
from carrel_execution.agents.registry import AgentRegistry
from carrel_execution.attempt.parts import AGENT, PROCESS


class Instance(Protocol):
    """An agent for the length of one run, wherever it runs."""

    async def run(self, port: RunPort, input: Mapping[str, JSON]) -> JSON:
        """As Agent.run; raises AgentDied when the agent, or what it ran in, is gone."""


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

    def isolate(self, name: str) -> None:
        """From now on this agent runs in processes of its own."""
        self._isolated.add(name)

    def is_isolated(self, name: str) -> bool:
        """Whether this agent runs in a process of its own."""
        if self._processes is None or name not in self.registry.classes:
            return False
        return bool(self._isolated & {name, "*"}) or self.registry.isolation(name) == "process"

    @property
    def confined_by_kernel(self) -> bool:
        """Whether Landlock and seccomp confine agents in processes, beside what a process can do to itself everywhere."""
        return self._processes is not None and self._processes.by_kernel

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
        self.counts.begun(name)
        cleaned = False
        try:
            if self._processes is not None and self.is_isolated(name):
                memory_mb = min(agent_class.memory_mb, memory_limit_mb or agent_class.memory_mb)
                cleaned = True  # its keeper leaves nothing, however it ends
                yield ProcessAgent(
                    self._processes, name, memory_mb, self._grace_seconds, partial(self.counts.made, name, "process")
                )
            else:
                in_loop = self._in_loop(agent_class)
                try:
                    yield in_loop
                finally:
                    cleaned = await self._cleaned(in_loop)
        finally:
            self.counts.ended(name, clean=cleaned)

    def _in_loop(self, agent_class: type[Agent]) -> LoopAgent:
        begin = time.perf_counter()
        agent = LoopAgent(agent_class())
        self.counts.made(agent.name, "loop", time.perf_counter() - begin)
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
                self.counts.kept(in_loop.name)
                get_logger().warning("agent.kept", agent=in_loop.name, kept=kept)
