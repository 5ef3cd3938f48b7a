"""The agent classes that this process can run: classes only, never instances, and none comes or goes after the start."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

from carrel.agent import Agent
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import is_id


class AgentRegistry:
    """Agent classes by name; frozen when it is made."""

    def __init__(self, classes: Iterable[type[Agent]]) -> None:
        found: dict[str, type[Agent]] = {}
        for agent_class in classes:
            name = _checked_name(agent_class)
            if found.setdefault(name, agent_class) is not agent_class:
                raise _unusable(f"Two agents are named {name}; rename one.")
        self.classes: Mapping[str, type[Agent]] = MappingProxyType(dict(sorted(found.items())))

    @property
    def names(self) -> Sequence[str]:
        """All names, sorted."""
        return tuple(self.classes)


def load_registry(modules: Sequence[str]) -> AgentRegistry:
    """The agents that come with Carrel and those of the `AGENTS` of each module; raises CarrelError, for the start to fail."""
    classes: list[type[Agent]] = []
    for name in ("carrel_agents", *modules):
        try:
            classes.extend(import_module(name).AGENTS)
        except (ImportError, AttributeError, TypeError) as error:
            raise _unusable(f"The agent module {name} cannot be used: {error}.") from error
    return AgentRegistry(classes)


def _checked_name(agent_class: object) -> str:
    if not isinstance(agent_class, type) or not issubclass(agent_class, Agent):
        raise _unusable(f"{agent_class!r} is not an agent class; register the class, not an instance.")
    if inspect.isabstract(agent_class):
        raise _unusable(f"{agent_class.__name__} has no run method; write one.")
    name = getattr(agent_class, "name", "")
    if not isinstance(name, str) or not is_id(name):
        raise _unusable(f"{agent_class.__name__} has no usable name; set `name` to an id.")
    return name


def _unusable(message: str) -> CarrelError:
    return CarrelError(Kind.INVALID, "INVALID_ARGUMENT", message)
