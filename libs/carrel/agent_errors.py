"""How an agent fails, and when a run that has failed begins again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

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


class AgentDied(AgentError):
    """The agent, or the process that it ran in, is gone. `cause` is one sentence for the user. An agent that had called it may go on."""

    def __init__(self, cause: str) -> None:
        super().__init__("AGENT_DIED", cause)


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
