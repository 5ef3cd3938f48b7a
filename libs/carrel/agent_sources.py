"""Where agents come from: modules that the operator names, and packages that are installed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from carrel.agent import Agent

GROUP = "carrel.agents"
"""The group of entry points, each of which is an agent or a module with a tuple `AGENTS`."""


class AgentsUnusable(Exception):
    """What can be imported holds no agents; one sentence."""


def module_names(agent_modules: str) -> tuple[str, ...]:
    """The names in a comma-separated list."""
    return tuple(name.strip() for name in agent_modules.split(",") if name.strip())


def load_agents(modules: Sequence[str]) -> tuple[list[type[Agent[Any, Any]]], dict[str, str]]:
    """The agents of the `AGENTS` of each module and those of installed packages, unchecked; and, by the name of what could not be
    imported, its traceback: the others serve without it. Raises AgentsUnusable."""
    classes: list[type[Agent[Any, Any]]] = []
    skipped: dict[str, str] = {}
    sources: list[tuple[str, Callable[[], Any]]] = [(name, partial(import_module, name)) for name in modules]
    sources += [(entry.value, entry.load) for entry in entry_points(group=GROUP)]
    for name, load in sources:
        try:
            found = load()
        except Exception as error:  # whatever an author's module does when it is imported
            skipped[name] = "".join(traceback.format_exception(error))
            continue
        classes.extend(each for each in _agents_in(name, found) if each not in classes)
    return classes, skipped


def _agents_in(name: str, found: Any) -> Iterable[type[Agent[Any, Any]]]:
    if isinstance(found, type) and issubclass(found, Agent):
        return (found,)
    try:
        return tuple(found.AGENTS)
    except (AttributeError, TypeError) as error:
        raise AgentsUnusable(f"The agent module {name} cannot be used: {error}.") from error
