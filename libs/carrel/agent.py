"""The agent SDK: what an author of an agent writes against. It knows no wire, no database and no service."""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal, TypeAlias

JSON: TypeAlias = Any
"""What the json module reads and writes: None, bool, int, float, str, lists of these, dicts with str keys."""


class AgentError(Exception):
    """Raised by an agent that cannot do what it was asked: the run ends FAILED and its user is told.

    `reason` is a stable upper-case name such as "CORPUS_NOT_FOUND"; `message` is one sentence that says what to do. With `retryable`
    the run begins again after a while, as the `retry` of its agent says.
    """

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


class ToolError(AgentError):
    """A tool refused, failed, or does not exist for this user. An agent that does not catch it fails with the same reason.

    "APPROVAL_DENIED" and "APPROVAL_EXPIRED": the user was asked for consent to the call and has refused, or not answered in time.
    """


class OutcomeUnknown(AgentError):
    """A step that must not be done twice was begun by a worker that died: whether it had its effect, the agent must find out."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When a run that has failed begins again. What it has done is not done again; only what had failed is.

    `reasons` are those of the failures that are tried again; when it is empty, all that come from the agent or its tools.
    """

    attempts: int = 3
    """With the first."""
    first_seconds: float = 1.0
    """The pause before the second."""
    factor: float = 2.0
    """By which each pause is longer than the one before."""
    most_seconds: float = 300.0
    reasons: frozenset[str] = frozenset()

    def pause_seconds(self, retry: int) -> float:
        """How long to wait before a retry; 1 is the first."""
        return min(self.first_seconds * self.factor ** (retry - 1), self.most_seconds)


class ThreadState(ABC):
    """What the agents of a thread keep from run to run: one JSON value of at most 256 KiB."""

    @abstractmethod
    async def get(self) -> JSON:
        """What this run has set, or else what the runs before it in the thread have left; None when there is nothing."""

    @abstractmethod
    async def set(self, value: JSON) -> None:
        """What is left for the runs after this one, from the moment that this one ends, however it does. A run that is rolled back, or
        is cancelled while it waits for a person, leaves nothing."""


class RunContext(ABC):
    """All that an agent may touch. Every call that reaches the world goes through it, so that a crashed run can be continued:
    the agent runs again from the top, and calls that were finished return what they returned.

    That works when the agent makes the same calls each time: it takes the time, and chance, from here and nowhere else. A run whose
    calls differ from those of the attempt before ends FAILED with JOURNAL_MISMATCH.
    """

    run_id: str
    thread_id: str
    agent: str
    """The name of the agent that holds this context."""
    settings: Mapping[str, JSON]
    """What the operator has set for agents, for example "prices"."""
    random: Random
    """The same numbers in each attempt of the run. Nobody must rely on their being hard to guess."""
    state: ThreadState

    @abstractmethod
    async def call_tool(self, tool: str, **arguments: JSON) -> JSON:
        """Calls a tool of the user through tool-dispatch and returns its result; raises ToolError.

        When the user must consent to the call first, the run waits for that, for days and without a process if need be.
        """

    @abstractmethod
    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        """Runs another agent within this run and returns its result; raises what it raises."""

    @abstractmethod
    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        """Does work of the agent's own, and keeps its JSON result of at most 1 MiB: when the run goes on elsewhere, it is returned
        without doing the work again. An AgentError of the work is kept and raised again in the same way.

        If the worker dies half-way, the work is done again. With `at_most_once` it is not: then OutcomeUnknown is raised.
        """

    @abstractmethod
    async def wait_for_input(
        self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None
    ) -> JSON:
        """Asks the user and returns the answer. Meanwhile no process holds the run, and what the agent has in memory is gone: when
        the answer is there, the agent runs again from the top, up to here.

        `schema` is a JSON Schema that the answer must match. Raises AgentError WAIT_EXPIRED when there is no answer within `timeout`
        seconds, or within what the service allows.
        """

    @abstractmethod
    async def now(self) -> float:
        """Seconds since the epoch; the same in each attempt of the run."""

    @abstractmethod
    async def thinking(self, text: str) -> None:
        """Tells the user what the agent is about to do."""

    @abstractmethod
    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        """Tells the user how far the agent has come; `total` is 0 when it is not known."""

    @abstractmethod
    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        """Sends an event of the agent's own kind to the user."""


class AgentClass(ABCMeta):
    """The type of agent classes. A class that serves many users does not change: `freeze` sees to it."""

    def freeze(cls) -> None:
        """From now on no attribute of the class, or of those that it inherits from, can be set."""
        for each in cls.__mro__:
            if isinstance(each, AgentClass):
                type.__setattr__(each, "_frozen", True)

    def __setattr__(cls, name: str, value: object) -> None:
        cls._check_open(name)
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        cls._check_open(name)
        super().__delattr__(name)

    def _check_open(cls, name: str) -> None:
        if cls.__dict__.get("_frozen"):
            message = f"{cls.__name__} serves all users and cannot be changed; keep {name} on the instance or in context.state."
            raise AgentError("CLASS_FROZEN", message)


class Agent(metaclass=AgentClass):
    """An agent. A new instance is made for each run and lives as long as the run; nothing is kept between runs."""

    name: ClassVar[str]
    description: ClassVar[str] = ""
    version: ClassVar[str] = ""
    """Stands on each run: change it when the calls that the agent makes change, so that a mismatch can be explained."""
    input_schema: ClassVar[Mapping[str, JSON] | None] = None
    """The JSON Schema of its input; None takes any object."""
    isolation: ClassVar[Literal["loop", "process"]] = "loop"
    """ "loop": beside others, for agents that only ever wait; "process": in a process of its own, which can be stopped for certain."""
    memory_mb: ClassVar[int] = 1024
    """The most that its process may use; in the loop it means nothing."""
    retry: ClassVar[Retry | None] = None
    """None: a failed run has failed."""
    timeout_seconds: ClassVar[float | None] = None
    """How long a run of it may work, without the time of waiting for people; None, or more than the service allows: what it allows."""

    @abstractmethod
    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """Does the work and returns a JSON value; raises AgentError when it cannot."""

    async def close(self) -> None:
        """Called when the run is over, however it ended: for what the agent has opened. It has a second."""
