"""The tool SDK: what an author of a tool writes against. It knows no wire, no database and no user.

Most tools are a function:

    @carrel.tool(idempotent=True)
    def count_words(text: str) -> dict[str, int]:
        \"\"\"Counts the words of a text.\"\"\"
        return {"words": len(text.split())}

Its schema comes from the type hints, its description from the docstring. What a function cannot say is said by a class, `Tool`.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, overload

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


@dataclass(frozen=True, slots=True)
class Probe:
    """What a tool found when it looked whether the effect of a call that died had happened."""

    happened: bool | None
    """None when it cannot tell: then the outcome is unknown and stays so."""
    result: JSON = None
    """What the call would have returned, if it happened."""


class Desk(Protocol):
    """All that a tool may touch, for one call, and for the one user it works for.

    A tool is given what it says that it needs (`Tool.reads_corpora`, `Tool.scopes`, `Tool.network`, `Tool.sandbox_level`); anything else
    raises ToolFailure NOT_GRANTED. What names a corpus raises CORPUS_NOT_FOUND for one that this user does not have.
    """

    @property
    def corpora(self) -> Mapping[str, Sequence[str]]:
        """The user's corpora: the columns of each by its name; empty unless the tool says `reads_corpora`."""

    def remaining_seconds(self) -> float:
        """How much of the call's time is left."""

    def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        """Tells how far the tool has come, if it says that it `tells_progress`: never waits, and never fails. 0 for what is not known."""

    async def query(self, sql: str, max_rows: int, offset: int = 0) -> dict[str, JSON]:
        """Runs one reading statement over the corpora, each a table of its name.

        Returns the rows from `offset` on, at most so many and at most 1 MiB: {"columns", "rows", "truncated", "next"}, where "next" is the
        offset of the rows that follow, or None. Raises SQL_ERROR, SQL_MEMORY, TOO_LARGE for one row that is larger.
        """

    async def search(self, words: str, corpora: Sequence[str], max_hits: int, offset: int = 0) -> dict[str, JSON]:
        """Finds the places in these corpora (all when none is named) that fit the words best.

        Returns the hits from `offset` on: {"hits": [{"corpus", "place", "score", "snippet"}], "searched", "truncated", "next"}.
        Raises QUERY_INVALID.
        """

    async def read_corpus(self, name: str, max_bytes: int) -> bytes:
        """The content of a corpus; raises TOO_LARGE when it has more bytes."""

    async def save_corpus(self, name: str, media_type: str, content: bytes, *, replace: bool) -> dict[str, JSON]:
        """Stores a corpus; {"name", "size_bytes", "sha256"}. Needs the scope "corpora.write".

        Raises CORPUS_INVALID, CORPUS_EXISTS unless `replace`, LIMIT_EXCEEDED.
        """

    async def rename_corpus(self, name: str, new_name: str) -> None:
        """Gives a corpus another name. Needs the scope "corpora.admin"; raises CORPUS_EXISTS."""

    async def check_corpus(self, name: str) -> dict[str, JSON]:
        """Reads a corpus whole and anew; {"columns", "types", "rows", "sha256"}. Raises CORPUS_INVALID."""

    async def delete_corpus(self, name: str) -> None:
        """Deletes a corpus of the user. Needs the scope "corpora.admin"."""

    async def run_sandboxed(
        self,
        call: str,
        request: Mapping[str, JSON],
        *,
        corpora: Sequence[str] = (),
        memory_mb: int = 256,
        disk_mb: int = 0,
    ) -> dict[str, JSON]:
        """Runs a function in a process of its own, shut in as the tool's `sandbox_level` says, and returns what it returns.

        `call` is "module:function" of a module that tool-dispatch has loaded there; `corpora` come as files. Raises SANDBOX_TOO_WEAK where
        the machine has no such level, and SANDBOX_TIME, SANDBOX_MEMORY, SANDBOX_DISK, SANDBOX_CRASHED, TOO_LARGE.
        """

    async def fetch(self, url: str, max_bytes: int) -> dict[str, JSON]:
        """Gets a page of a host that the operator has allowed; {"state", "url", "media_type", "content"}. Needs `network`."""


class Tool(ABC):
    """A tool. A new instance is made for each call and nothing is kept between calls."""

    name: ClassVar[str]
    description: ClassVar[str] = ""
    scopes: ClassVar[frozenset[str]] = frozenset()
    """The user needs all of these; without them the tool does not exist for the user."""
    arguments_schema: ClassVar[Mapping[str, JSON]]
    """The JSON Schema (2020-12) of the arguments object."""
    reads_corpora: ClassVar[bool] = False
    network: ClassVar[bool] = False
    """Whether it gets pages from hosts that the operator has allowed."""
    sandbox_level: ClassVar[int] = 0
    """The least level that its code of others needs: 0 runs none, 1 a bounded process, 2 with Landlock and seccomp, 3 in namespaces."""
    idempotent: ClassVar[bool] = False
    """Whether running it again does no harm. If not, a call that died half-way is never repeated: its outcome is unknown."""
    verifies: ClassVar[bool] = False
    """Whether `probe` can tell if the effect of a call that died has happened. Such a call is repeated if it has not."""
    tells_progress: ClassVar[bool] = False
    """Whether it tells how far it has come: only then its progress reaches the user, as events of the run."""
    needs_approval: ClassVar[bool] = False
    """Whether the user has to consent to each call, whatever the policy of the tenant allows."""

    @classmethod
    def asks_approval(cls, arguments: Mapping[str, JSON]) -> bool:
        """Whether the user has to consent to this call; for tools of which only some calls need it."""
        return cls.needs_approval

    async def probe(self, arguments: Mapping[str, JSON], desk: Desk) -> Probe:
        """Looks whether the effect of an earlier call with these arguments has happened; asked if the tool `verifies`.
        That call has died or was cancelled. What it was doing elsewhere at that moment must be visible here."""
        return Probe(None)

    @abstractmethod
    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        """Does the work and returns a JSON value of at most 1 MiB. It is cancelled when its time is over or its caller leaves."""


class FunctionTool(Tool):
    """A tool that `tool` has made of a function."""

    function: ClassVar[Callable[..., Any]]
    """The function itself, to be called in tests."""
    arguments: ClassVar[Any]
    """The pydantic model of its parameters."""
    returns: ClassVar[Any]
    """The pydantic adapter of what it returns."""
    wants_desk: ClassVar[bool]

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        if self.sandbox_level:
            request = {
                "module": self.function.__module__,
                "tool": self.function.__qualname__,
                "arguments": dict(arguments),
            }
            answer = await desk.run_sandboxed("carrel_tools.sandbox.functions:run", request)
            if failure := answer.get("failure"):
                raise ToolFailure(*failure)
            return answer["result"]
        given = self.parameters(arguments)
        if self.wants_desk:
            given["desk"] = desk
        result = type(self).function(**given)
        return self.result(await result if inspect.isawaitable(result) else result)

    @classmethod
    def parameters(cls, arguments: Mapping[str, JSON]) -> dict[str, Any]:
        """The arguments as the type hints of the function say."""
        model = cls.arguments.model_validate(dict(arguments))
        return {name: getattr(model, name) for name in cls.arguments.model_fields}

    @classmethod
    def result(cls, value: Any) -> JSON:
        """What the function returned, as JSON."""
        return cls.returns.dump_python(value, mode="json")


@overload
def tool(function: Callable[..., Any], /) -> type[FunctionTool]: ...


@overload
def tool(
    *,
    name: str = "",
    scopes: Sequence[str] = (),
    idempotent: bool = False,
    tells_progress: bool = False,
    needs_approval: bool = False,
    reads_corpora: bool = False,
    network: bool = False,
    sandbox_level: int = 0,
) -> Callable[[Callable[..., Any]], type[FunctionTool]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    scopes: Sequence[str] = (),
    idempotent: bool = False,
    tells_progress: bool = False,
    needs_approval: bool = False,
    reads_corpora: bool = False,
    network: bool = False,
    sandbox_level: int = 0,
) -> Any:
    """Makes a tool of a function, plain or async; with or without parentheses. The keywords are those of `Tool`.

    Each parameter has a type hint, from which pydantic derives the schema; `Annotated[int, Field(ge=1, description=...)]` says more. A
    parameter called `desk` is given the desk. With `sandbox_level` the function runs in a process of its own, without a desk.
    Raises TypeError for a function that does not say what it takes or what it does.
    """

    def make(function: Callable[..., Any]) -> type[FunctionTool]:
        from pydantic import TypeAdapter

        description = inspect.cleandoc(function.__doc__ or "")
        if not description:
            raise TypeError(f"the tool {function.__qualname__} has no docstring: it is what its callers read")
        hints = typing.get_type_hints(function, include_extras=True)
        wants_desk = "desk" in inspect.signature(function).parameters
        if sandbox_level and (wants_desk or inspect.iscoroutinefunction(function)):
            raise TypeError(
                f"the tool {function.__qualname__} runs in a sandbox: it must be a plain function without a desk"
            )
        model = _model(function, hints)
        attributes = {
            "__module__": function.__module__,
            "__doc__": function.__doc__,
            "name": name or function.__name__,
            "description": description,
            "scopes": frozenset(scopes),
            "arguments_schema": model.model_json_schema(),
            "idempotent": idempotent,
            "tells_progress": tells_progress,
            "needs_approval": needs_approval,
            "reads_corpora": reads_corpora,
            "network": network,
            "sandbox_level": sandbox_level,
            "function": staticmethod(function),
            "arguments": model,
            "returns": TypeAdapter(hints.get("return", Any)),
            "wants_desk": wants_desk,
        }
        return type(function.__name__, (FunctionTool,), attributes)

    return make if function is None else make(function)


def _model(function: Callable[..., Any], hints: Mapping[str, Any]) -> Any:
    """The parameters as a pydantic model that takes no others."""
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "desk":
            continue
        if (
            parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            or parameter.name not in hints
        ):
            raise TypeError(
                f"the parameter {parameter.name} of the tool {function.__qualname__} needs a name and a type hint"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
