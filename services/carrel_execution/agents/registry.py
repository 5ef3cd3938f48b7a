"""The agent classes that this process can run: classes only, never instances, and none comes, goes or changes after the start."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from carrel.agent import JSON, Agent
from carrel.agent_sources import AgentsUnusable, load_agents
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import is_id
from carrel_execution.agents import keepsakes


class AgentRegistry:
    """Agent classes by name; frozen when it is made, and the classes with it."""

    def __init__(self, classes: Iterable[type[Agent]], skipped: Mapping[str, str] | None = None) -> None:
        found: dict[str, type[Agent]] = {}
        for agent_class in classes:
            name = _checked_name(agent_class)
            _check_class(agent_class)
            if found.setdefault(name, agent_class) is not agent_class:
                raise _unusable(f"Two agents are named {name}; rename one.")
        self.classes: Mapping[str, type[Agent]] = MappingProxyType(dict(sorted(found.items())))
        self.skipped: Mapping[str, str] = MappingProxyType(dict(skipped or {}))
        """The modules that could not be imported, and the traceback of each."""
        for agent_class in self.classes.values():
            agent_class.freeze()

    @property
    def names(self) -> Sequence[str]:
        """All names, sorted."""
        return tuple(self.classes)

    def input_schema(self, name: str) -> Mapping[str, JSON] | None:
        """The JSON Schema of an agent's input; None takes any object."""
        return self.classes[name].input_schema

    def version(self, name: str) -> str:
        """As the class states it."""
        return self.classes[name].version

    def isolation(self, name: str) -> Literal["loop", "process"]:
        """As the class states it; by policy it may be another."""
        return self.classes[name].isolation


def load_registry(modules: Sequence[str]) -> AgentRegistry:
    """The agents that come with Carrel, those of the `AGENTS` of each module, and those of installed packages.

    A module that cannot be imported is skipped, and the others serve. Raises CarrelError, for the start to fail, when one that can
    be imported holds what is no usable agent.
    """
    classes, skipped = load_classes(modules)
    return AgentRegistry(classes, skipped)


def load_classes(modules: Sequence[str]) -> tuple[list[type[Agent]], dict[str, str]]:
    """The classes, unchecked, and the tracebacks of the modules that cannot be imported."""
    try:
        return load_agents(["carrel_agents", *modules])
    except AgentsUnusable as error:
        raise _unusable(str(error)) from error


def _checked_name(agent_class: object) -> str:
    if not isinstance(agent_class, type) or not issubclass(agent_class, Agent):
        raise _unusable(f"{agent_class!r} is not an agent class; register the class, not an instance.")
    if inspect.isabstract(agent_class):
        raise _unusable(f"{agent_class.__name__} has no run method; write one.")
    name = getattr(agent_class, "name", "")
    if not isinstance(name, str) or not is_id(name):
        raise _unusable(f"{agent_class.__name__} has no usable name; set `name` to an id.")
    return name


def _check_class(agent_class: type[Agent]) -> None:
    name = agent_class.__name__
    if agent_class.isolation not in ("loop", "process"):
        raise _unusable(f'{name} has the isolation {agent_class.isolation!r}; it is "loop" or "process".')
    if not isinstance(agent_class.memory_mb, int) or agent_class.memory_mb < 1:
        raise _unusable(f"{name} has a memory_mb of {agent_class.memory_mb!r}; it is a number of megabytes.")
    if shared := keepsakes.on_class(agent_class):
        which = ", ".join(f"{attribute} ({kind})" for attribute, kind in sorted(shared.items()))
        raise _unusable(
            f"All users would share what {name} keeps on its class: {which}; make it a constant, or an instance's."
        )
    if agent_class.input_schema is not None:
        _check_schema(name, agent_class.input_schema)


def _check_schema(name: str, schema: Mapping[str, JSON]) -> None:
    # Imported here: the processes of agents have no use for it.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        raise _unusable(f"The input_schema of {name} is no JSON Schema: {error.message}.") from None


def _unusable(message: str) -> CarrelError:
    return CarrelError(Kind.INVALID, "INVALID_ARGUMENT", message)
