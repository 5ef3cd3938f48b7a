"""The agent SDK: what an author of an agent writes against. It knows no wire, no database and no service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

JSON: TypeAlias = Any
"""What the json module reads and writes: None, bool, int, float, str, lists of these, dicts with str keys."""


class AgentError(Exception):
    """Raised by an agent that cannot do what it was asked: the run ends FAILED and its user is told.

    `reason` is a stable upper-case name such as "CORPUS_NOT_FOUND"; `message` is one sentence that says what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ToolError(AgentError):
    """A tool refused, failed, or does not exist for this user. An agent that does not catch it fails with the same reason."""


class RunContext(ABC):
    """All that an agent may touch. Every call that reaches the world goes through it, so that a crashed run can be continued:
    the agent runs again from the top, and calls that were finished return what they returned.
    """

    run_id: str
    thread_id: str
    agent: str
    """The name of the agent that holds this context."""
    settings: Mapping[str, JSON]
    """What the operator has set for agents, for example "prices"."""

    @abstractmethod
    async def call_tool(self, tool: str, **arguments: JSON) -> JSON:
        """Calls a tool of the user through tool-dispatch and returns its result; raises ToolError."""

    @abstractmethod
    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        """Runs another agent within this run and returns its result; raises what it raises."""

    @abstractmethod
    async def thinking(self, text: str) -> None:
        """Tells the user what the agent is about to do."""

    @abstractmethod
    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        """Tells the user how far the agent has come; `total` is 0 when it is not known."""

    @abstractmethod
    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        """Sends an event of the agent's own kind to the user."""


class Agent(ABC):
    """An agent. A new instance is made for each run and lives as long as the run; nothing is kept between runs."""

    name: ClassVar[str]
    description: ClassVar[str] = ""

    @abstractmethod
    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """Does the work and returns a JSON value; raises AgentError when it cannot."""
