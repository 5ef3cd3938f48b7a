"""What agents must not keep: contexts, connections, channels, and on their classes anything that could pass from one user to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from carrel.agent import Agent, AgentClass, AgentError, OfRun, RunPort
from carrel_chassis.identity import UserContext

_CONNECTIONS = frozenset(("asyncpg", "grpc", "nats", "sqlalchemy", "carrel_chassis", "carrel_execution"))
"""The packages whose objects lead to a database, a service or another run."""
_CHANGEABLE = (list, dict, set, bytearray)
_OF_EVERY_CLASS = frozenset(("input_schema", "output_schema", "__annotations__", "__dict__", "__weakref__"))


def on_instance(agent: Agent) -> dict[str, str]:
    """The attributes that hold what an agent must not keep, and the type of each."""
    return dict(_forbidden(vars(agent)))


def on_class(agent_class: type[Agent]) -> dict[str, str]:
    """The same of a class, and also what could be changed: all users would share it."""
    found: dict[str, str] = {}
    for each in agent_class.__mro__:
        if isinstance(each, AgentClass) and each is not Agent:
            found |= dict(_forbidden(vars(each)))
            changeable = {name: value for name, value in vars(each).items() if isinstance(value, _CHANGEABLE)}
            found |= {name: type(value).__name__ for name, value in changeable.items() if name not in _OF_EVERY_CLASS}
    return found


def refuse_foreign(agent: Agent, port: RunPort) -> None:
    """Raises AgentError when the agent holds the context of another run, or anybody's identity."""
    for name, value in _values(vars(agent)):
        foreign = isinstance(value, (OfRun, RunPort)) and value.run_id != port.run_id
        if foreign or isinstance(value, UserContext):
            message = f"The agent holds what is another run's in {name}; it must take everything from its own context."
            raise AgentError("FOREIGN_CONTEXT", message)


def _forbidden(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in _values(attributes):
        package = type(value).__module__.partition(".")[0]
        if isinstance(value, (OfRun, RunPort)) or package in _CONNECTIONS:
            yield name, type(value).__name__


def _values(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The attributes and, where one is a collection, what is in it."""
    for name, value in attributes.items():
        yield name, value
        if isinstance(value, (list, tuple, set, frozenset)):
            yield from ((name, each) for each in value)
        elif isinstance(value, dict):
            yield from ((name, each) for each in value.values())
