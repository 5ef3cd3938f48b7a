"""The other side of a run context: what whoever runs an agent provides, be it the service, a process of the agent's own or a test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

from carrel.agent_errors import JSON


class ThreadState(ABC):
    """What the agents of a thread keep from run to run: one JSON value of at most 256 KiB."""

    @abstractmethod
    async def get(self) -> JSON:
        """What this run has set, or else what the runs before it in the thread have left; None when there is nothing."""

    @abstractmethod
    async def set(self, value: JSON) -> None:
        """What is left for the runs after this one, from the moment that this one ends, however it does. A run that is rolled back, or
        is cancelled while it waits for a person, leaves nothing."""


class RunPort(ABC):
    """One method for each thing that an agent can do; `RunContext` says what each means to the agent."""

    run_id: str
    thread_id: str
    agent: str
    settings: Mapping[str, JSON]
    random: Random
    state: ThreadState
    models: Sequence[str]
    """The names of the models that there are; the first is the one that is meant when none is named."""

    @abstractmethod
    async def call_tool(self, tool: str, /, **arguments: JSON) -> JSON:
        """`context.tools.call`."""

    @abstractmethod
    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        """`context.agents.run`."""

    @abstractmethod
    async def call_model(self, model: str, request: Mapping[str, JSON], quiet: bool = False) -> JSON:
        """`context.model.request`."""

    @abstractmethod
    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        """`context.step`."""

    @abstractmethod
    async def wait_for_input(
        self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None
    ) -> JSON:
        """`context.wait_for.input`."""

    @abstractmethod
    async def wait_for_approval(self, prompt: str, timeout: float | None = None) -> bool:
        """`context.wait_for.approval`."""

    @abstractmethod
    async def now(self) -> float:
        """`context.clock.now`."""

    @abstractmethod
    async def thinking(self, text: str) -> None:
        """`context.emit.thinking`."""

    @abstractmethod
    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        """`context.emit.progress`."""

    @abstractmethod
    async def partial_result(self, message_id: str, delta: str = "", text: str = "") -> None:
        """`context.emit.delta` and `context.emit.text`."""

    @abstractmethod
    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        """`context.emit.custom`."""
