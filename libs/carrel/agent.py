"""The agent SDK: what an author of an agent writes against. It knows no wire, no database and no service.

Most agents are a function:

    @carrel.agent
    async def summarize(context: RunContext, input: Question) -> Answer:
        \"\"\"Answers a question in one sentence.\"\"\"
        return Answer(text=(await context.model.ask(input.text)).text)

`Question` and `Answer` are pydantic models, dataclasses or typed dicts: the schemas come from them, and both are checked. The name and
the description are the function's own. What a function cannot say is said by a class, `Agent`.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABCMeta, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Generic, Literal, overload

from typing_extensions import TypeVar

from carrel.agent_errors import JSON, AgentDied, AgentError, OutcomeUnknown, Retry, ToolError
from carrel.agent_types import AgentTypes, types_of
from carrel.model_answer import ModelAnswer
from carrel.run_context import OfRun, RunContext
from carrel.run_port import RunPort, ThreadState

__all__ = [
    "JSON",
    "Agent",
    "AgentClass",
    "AgentDied",
    "AgentError",
    "FunctionAgent",
    "ModelAnswer",
    "OfRun",
    "OutcomeUnknown",
    "Retry",
    "RunContext",
    "RunPort",
    "ThreadState",
    "ToolError",
    "agent",
]

In = TypeVar("In", contravariant=True, default=Mapping[str, JSON])
Out = TypeVar("Out", covariant=True, default=JSON)
FunctionIn = TypeVar("FunctionIn")
FunctionOut = TypeVar("FunctionOut")


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


class Agent(Generic[In, Out], metaclass=AgentClass):
    """An agent. A new instance is made for each run and lives as long as the run; nothing is kept between runs.

    `Agent[Question, Answer]` takes and returns these types, and so does an agent whose `run` has them as hints; without them it takes
    any JSON object and returns any JSON value. A class whose types have no schema raises TypeError where it is defined.
    """

    name: ClassVar[str]
    description: ClassVar[str] = ""
    version: ClassVar[str] = ""
    """Stands on each run: change it when the calls that the agent makes change, so that a mismatch can be explained."""
    input_schema: ClassVar[Mapping[str, JSON] | None] = None
    """The JSON Schema of its input, which a run is refused for before it begins; None takes any object. It follows from the type."""
    output_schema: ClassVar[Mapping[str, JSON] | None] = None
    """The JSON Schema of its result; None is any value."""
    isolation: ClassVar[Literal["loop", "process"]] = "loop"
    """ "loop": beside others, for agents that only ever wait; "process": in a process of its own, which can be stopped for certain."""
    memory_mb: ClassVar[int] = 1024
    """The most that its process may use; in the loop it means nothing."""
    retry: ClassVar[Retry | None] = None
    """None: a failed run has failed."""
    timeout_seconds: ClassVar[float | None] = None
    """How long a run of it may work, without the time of waiting for people; None, or more than the service allows: what it allows."""
    types: ClassVar[AgentTypes] = AgentTypes()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        stated = _stated_types(cls)
        if not stated and "run" not in vars(cls):
            return
        cls.types = types_of(getattr(cls, "name", cls.__name__), cls.run, stated)
        if "input_schema" not in vars(cls):
            cls.input_schema = cls.types.input_schema
        if "output_schema" not in vars(cls):
            cls.output_schema = cls.types.output_schema

    @abstractmethod
    async def run(self, context: RunContext, input: In) -> Out:
        """Does the work and returns its result; raises AgentError when it cannot."""

    async def perform(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """`run` from JSON to JSON, for those who run agents; AgentError INVALID_INPUT and RESULT_INVALID for what is not of its types."""
        result = await self.run(context, self.types.read_input(self.name, input))
        return self.types.dump_output(self.name, result)

    async def close(self) -> None:
        """Called when the run is over, however it ended: for what the agent has opened. It has a second."""


def _stated_types(agent_class: type[Agent[Any, Any]]) -> tuple[Any, ...]:
    """What stands in the brackets of `Agent[...]`; empty when nothing does."""
    for base in vars(agent_class).get("__orig_bases__", ()):
        origin = typing.get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Agent):
            return typing.get_args(base)
    return ()


class FunctionAgent(Agent[Any, Any]):
    """An agent that `agent` has made of a function."""

    function: ClassVar[Callable[..., Awaitable[Any]]]
    """The function itself."""

    async def run(self, context: RunContext, input: Any) -> Any:
        return await type(self).function(context, input)


@overload
def agent(
    function: Callable[[RunContext, FunctionIn], Awaitable[FunctionOut]], /
) -> type[Agent[FunctionIn, FunctionOut]]: ...


@overload
def agent(
    *,
    name: str = "",
    version: str = "",
    isolation: Literal["loop", "process"] = "loop",
    memory_mb: int = 1024,
    retry: Retry | None = None,
    timeout_seconds: float | None = None,
) -> Callable[[Callable[[RunContext, FunctionIn], Awaitable[FunctionOut]]], type[Agent[FunctionIn, FunctionOut]]]: ...


def agent(function: Callable[..., Awaitable[Any]] | None = None, /, *, name: str = "", **attributes: Any) -> Any:
    """Makes an agent of an async function of a context and an input; with or without parentheses. The keywords are those of `Agent`.

    Raises TypeError for a function that does not say what it does, and for types that have no schema.
    """

    def make(function: Callable[..., Awaitable[Any]]) -> AgentClass:
        shown = name or function.__name__
        if not inspect.iscoroutinefunction(function) or len(inspect.signature(function).parameters) != 2:
            raise TypeError(f"the agent {shown} must be an async function of two parameters, a context and an input")
        if not (description := inspect.cleandoc(function.__doc__ or "")):
            raise TypeError(f"the agent {shown} has no docstring: it is what its users read")
        types = types_of(shown, function)
        own: dict[str, Any] = {
            "__module__": function.__module__,
            "__doc__": function.__doc__,
            "name": shown,
            "description": description,
            "types": types,
            "input_schema": types.input_schema,
            "output_schema": types.output_schema,
            "function": staticmethod(function),
        }
        return AgentClass(function.__name__, (FunctionAgent,), {**own, **attributes})

    return make if function is None else make(function)
