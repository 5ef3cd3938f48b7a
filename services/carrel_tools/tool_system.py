"""Which tools there are, and which of them exist for a user: classes only, and instances made for each request."""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

from jsonschema import Draft202012Validator

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_tools.shipped import TOOLS
from carrel_tools.tool import JSON, Tool

_SHOWN = 5
"""How many wrong arguments one refusal names."""


class ToolClasses:
    """The classes of all tools, checked once and frozen; holds no instance and nothing of a user."""

    def __init__(self, classes: Sequence[type[Tool]]) -> None:
        self._classes = {each.name: each for each in sorted(classes, key=lambda each: each.name)}
        if len(self._classes) != len(classes):
            raise ValueError(f"two tools have the same name: {', '.join(each.name for each in classes)}")
        for each in classes:
            Draft202012Validator.check_schema(each.arguments_schema)
        self._validators = {name: Draft202012Validator(each.arguments_schema) for name, each in self._classes.items()}
        rules = "\n".join(f"{name}:{','.join(sorted(each.scopes))}" for name, each in self._classes.items())
        self.policy_version = hashlib.sha256(rules.encode()).hexdigest()[:12]
        """Changes when a tool or the scopes of one do; audit rows name it."""

    def __iter__(self) -> Iterator[type[Tool]]:
        return iter(self._classes.values())

    def get(self, name: str) -> type[Tool] | None:
        """The class of this name, whoever asks."""
        return self._classes.get(name)

    def check_arguments(self, tool: Tool, arguments: Mapping[str, JSON]) -> None:
        """Raises INVALID_ARGUMENT, naming by JSON path what does not fit the tool's schema."""
        errors = itertools.islice(self._validators[tool.name].iter_errors(arguments), _SHOWN)
        fields = {f"arguments_json {error.json_path[:200]}": error.message[:200] for error in errors}
        for field, message in fields.items():
            raise CarrelError(
                Kind.INVALID,
                "INVALID_ARGUMENT",
                f"The arguments do not fit the tool {tool.name} ({field}: {message}); ListTools has its schema.",
                metadata={"field": "arguments_json"},
                fields=fields,
            )


class ToolSystem:
    """The tools as one user sees them, for one request. A tool whose scopes the user lacks is not in it."""

    def __init__(self, user: UserContext, classes: ToolClasses) -> None:
        self._scopes = user.scopes
        self._classes = classes

    def tools(self) -> list[Tool]:
        """A new instance of each, by name."""
        return [each() for each in self._classes if each.scopes <= self._scopes]

    def find(self, name: str) -> Tool | None:
        """A new instance; None for a tool that does not exist and for one that does not exist for this user."""
        found = self._classes.get(name)
        return found() if found is not None and found.scopes <= self._scopes else None


def load_classes(tool_modules: str) -> ToolClasses:
    """The tools that come with Carrel and those of the comma-separated modules, each of which has a tuple `TOOLS`."""
    names = [name.strip() for name in tool_modules.split(",") if name.strip()]
    more = [each for name in names for each in importlib.import_module(name).TOOLS]
    return ToolClasses([*TOOLS, *more])
