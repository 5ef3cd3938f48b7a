"""The types of an agent's input and output: their schemas, and the way from JSON and back. It loads pydantic when there is a type."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carrel.agent_errors import JSON, AgentError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

_SHOWN = 5
"""How many faults one message names."""
_ANYTHING = ("JSON", "Any", "Mapping[str, JSON]", "dict[str, JSON]", "Mapping[str, Any]", "dict[str, Any]", "object")
"""Hints that say nothing; they are known by their text, so that an agent without types loads nothing."""


class AgentTypes:
    """What an agent takes and returns. A side without a type is JSON as it comes."""

    __slots__ = ("_input", "_output")

    def __init__(self, input: TypeAdapter[Any] | None = None, output: TypeAdapter[Any] | None = None) -> None:
        self._input = input
        self._output = output

    @property
    def input_schema(self) -> dict[str, JSON] | None:
        """The JSON Schema of the input; None when it has no type."""
        return None if self._input is None else self._input.json_schema(mode="validation")

    @property
    def output_schema(self) -> dict[str, JSON] | None:
        """The JSON Schema of the result; None when it has no type."""
        return None if self._output is None else self._output.json_schema(mode="serialization")

    def read_input(self, agent: str, value: Mapping[str, JSON]) -> Any:
        """The input as the agent takes it; AgentError INVALID_INPUT names what is wrong, by its path."""
        return _read(self._input, value, "INVALID_INPUT", f"The input is not what {agent} takes")

    def read_output(self, agent: str, value: JSON) -> Any:
        """A result of the agent as its callers take it; AgentError RESULT_INVALID."""
        return _read(self._output, value, "RESULT_INVALID", f"{agent} returned what is not its result")

    def dump_input(self, value: Any) -> Any:
        """An input as JSON."""
        return dict(value) if self._input is None else self._input.dump_python(value, mode="json")

    def dump_output(self, agent: str, value: Any) -> JSON:
        """What the agent returned, checked, as JSON; AgentError RESULT_INVALID."""
        if self._output is None:
            return value
        checked = _read(self._output, value, "RESULT_INVALID", f"{agent} returned what is not its result")
        return self._output.dump_python(checked, mode="json")


def _read(adapter: TypeAdapter[Any] | None, value: Any, reason: str, sentence: str) -> Any:
    if adapter is None:
        return value
    from pydantic import ValidationError

    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise AgentError(reason, f"{sentence}: {_faults(error)}.") from None


def _faults(error: ValidationError) -> str:
    """Without the values: they may be another's secrets by the time that somebody reads this."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{_path(each['loc'])}: {each['msg']}" for each in found[:_SHOWN])


def _path(place: Sequence[int | str]) -> str:
    return ".".join(map(str, place)) or "as a whole"


def types_of(name: str, function: Callable[..., Any], stated: Sequence[Any] = ()) -> AgentTypes:
    """The types that the second parameter and the result of a function have by its hints, or else `stated` for (input, output).

    Raises TypeError, in one sentence, for a hint that names nothing or of which pydantic cannot make a schema.
    """
    hints = stated or _hints(name, function)
    input_type, output_type = hints
    input = _adapter(name, "input", input_type)
    if input is not None and input.json_schema().get("type", "object") != "object":
        raise TypeError(f"the input of the agent {name} is {_shown(input_type)}; it must be an object: take a model")
    return AgentTypes(input, _adapter(name, "result", output_type))


def _hints(name: str, function: Callable[..., Any]) -> tuple[Any, Any]:
    *_, last = inspect.signature(function).parameters or [""]
    raw = getattr(function, "__annotations__", {})
    if all(_says_nothing(raw.get(each)) for each in (last, "return")):
        return (Any, Any)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        message = (
            f"a type of the agent {name} is not known where it stands ({error}): define it in its module, above it"
        )
        raise TypeError(message) from None
    return tuple(Any if _says_nothing(raw.get(each)) else hints[each] for each in (last, "return"))  # type: ignore[return-value]


def _says_nothing(hint: Any) -> bool:
    return hint is None or hint is Any or (hint if isinstance(hint, str) else _shown(hint)) in _ANYTHING


def _shown(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    return text.replace("collections.abc.", "").replace("typing.", "")


def _adapter(name: str, side: str, hint: Any) -> TypeAdapter[Any] | None:
    if hint is Any or isinstance(hint, typing.TypeVar) or _says_nothing(hint):
        return None
    from pydantic import PydanticUserError, TypeAdapter

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        adapter.json_schema(mode="validation" if side == "input" else "serialization")
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise TypeError(
            f"the {side} of the agent {name} is of a type without a schema, {_shown(hint)}: {reason}"
        ) from None
    return adapter
