"""The seam to write a tool against: the tool, the desk it works at, its failure. It knows no wire, no database and no user."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

JSON = Any
"""What the json module reads and writes: None, bool, int, float, str, lists of these, dicts with str keys."""


class ToolFailure(Exception):
    """Raised by a tool that cannot do what it was asked. The step keeps this outcome: the same step fails in the same way.

    `reason` is a stable upper-case name such as "SQL_ERROR"; `message` is one sentence that says what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Desk(Protocol):
    """All that a tool may touch, for one call: the corpora of the one user it works for, and the time it has."""

    @property
    def corpora(self) -> Mapping[str, Sequence[str]]:
        """The user's corpora: the columns of each by its name; empty unless the tool says `reads_corpora`."""

    def remaining_seconds(self) -> float:
        """How much of the call's time is left."""

    async def query(self, sql: str, max_rows: int) -> dict[str, JSON]:
        """Runs one reading statement over the corpora, each a table of its name whose columns are all text.

        Returns {"columns", "rows", "truncated"}. Raises ToolFailure SQL_ERROR, or CORPUS_NOT_FOUND for a table that is no corpus.
        """

    async def delete_corpus(self, name: str) -> None:
        """Deletes a corpus of the user. Raises ToolFailure CORPUS_NOT_FOUND, NOT_GRANTED unless the tool's scopes include
        "corpora.admin"."""


class Tool(ABC):
    """A tool. A new instance is made for each call and nothing is kept between calls."""

    name: ClassVar[str]
    description: ClassVar[str] = ""
    scopes: ClassVar[frozenset[str]] = frozenset()
    """The user needs all of these; without them the tool does not exist for the user."""
    arguments_schema: ClassVar[Mapping[str, JSON]]
    """The JSON Schema (2020-12) of the arguments object."""
    reads_corpora: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False
    """Whether running it again does no harm. If not, a call that died half-way is never repeated: its outcome is unknown."""

    @abstractmethod
    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        """Does the work and returns a JSON value of at most 1 MiB. It is cancelled when its time is over or its caller leaves."""
