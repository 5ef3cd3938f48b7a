"""Which tools there are, which of them exist for a user, and what is decided of a call. It keeps nothing of a user."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jsonschema import Draft202012Validator

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_tools.policy import Decision, Effect, Policy, Rule
from carrel_tools.shipped import TOOLS
from carrel_tools.tool import JSON, Tool
from carrel_tools.tool_sources import added_tools

BUILT_IN = Policy((Rule("default.tools", Effect.ALLOW, ("*",)),), "0")
"""What holds for a tenant that has set no rules: everything that is installed, to those who hold the scopes that the tool demands."""

_SHOWN = 5
"""How many wrong arguments one refusal names."""


class ToolProvider(Protocol):
    """Where tools come from. Each call asks anew, for its own user: a provider may know other tools for each of them."""

    async def list_tools(self, user: UserContext) -> Sequence[Tool]:
        """A new instance of each tool that there is, permitted or not."""

    async def find_tool(self, user: UserContext, name: str) -> Tool | None:
        """A new instance of the tool of this name, permitted or not."""

    def check_arguments(self, tool: Tool, arguments: Mapping[str, JSON]) -> None:
        """Raises INVALID_ARGUMENT, naming by JSON path what does not fit the tool's schema."""


class ToolClasses:
    """The provider of tools that are classes in this process: checked once and frozen, holding no instance."""

    def __init__(self, classes: Sequence[type[Tool]]) -> None:
        self._classes = {each.name: each for each in sorted(classes, key=lambda each: each.name)}
        if len(self._classes) != len(classes):
            raise ValueError(f"two tools have the same name: {', '.join(each.name for each in classes)}")
        for each in classes:
            Draft202012Validator.check_schema(each.arguments_schema)
        self._validators = {name: Draft202012Validator(each.arguments_schema) for name, each in self._classes.items()}

    def __iter__(self) -> Iterator[type[Tool]]:
        return iter(self._classes.values())

    async def list_tools(self, user: UserContext) -> Sequence[Tool]:
        return [each() for each in self]

    async def find_tool(self, user: UserContext, name: str) -> Tool | None:
        found = self._classes.get(name)
        return found() if found is not None else None

    def check_arguments(self, tool: Tool, arguments: Mapping[str, JSON]) -> None:
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


@dataclass(frozen=True, slots=True)
class FoundTool:
    """A tool, and whence it comes."""

    tool: Tool
    provider: ToolProvider

    def check_arguments(self, arguments: Mapping[str, JSON]) -> None:
        """Raises INVALID_ARGUMENT for what does not fit the tool's schema."""
        self.provider.check_arguments(self.tool, arguments)


class ToolSystem:
    """The tools as one user sees them, for one request, and what the tenant's policy says of their calls."""

    def __init__(self, user: UserContext, policy: Policy, providers: Sequence[ToolProvider]) -> None:
        self._user = user
        self._policy = policy
        self._providers = providers

    async def tools(self) -> list[Tool]:
        """A new instance of each that exists for the user, by name."""
        found = [each for provider in self._providers for each in await provider.list_tools(self._user)]
        seen = [each for each in found if self.view(each).effect is not Effect.DENY]
        return sorted(seen, key=lambda each: each.name)

    async def find(self, name: str) -> FoundTool | None:
        """The tool of this name, permitted or not: of the first provider that has one."""
        for provider in self._providers:
            if (tool := await provider.find_tool(self._user, name)) is not None:
                return FoundTool(tool, provider)
        return None

    def view(self, tool: Tool | None) -> Decision:
        """DENY when the tool does not exist for the user, with the rule that says so: for the audit, never for the caller."""
        if tool is None:
            return self._policy.denied("TOOL_UNKNOWN")
        if not tool.scopes <= self._user.scopes:
            return self._policy.denied("SCOPE_MISSING")
        return self._policy.view(self._user.user_id, self._user.scopes, tool.name)

    def decide(self, tool: Tool, arguments: Mapping[str, JSON]) -> Decision:
        """What is decided of a call of a tool that exists for the user."""
        decision = self._policy.decide(self._user.user_id, self._user.scopes, tool.name, arguments)
        if decision.effect is Effect.ALLOW and tool.asks_approval(arguments):
            return Decision(Effect.REQUIRE_APPROVAL, "TOOL_ITSELF", decision.policy_version)
        return decision


def load_classes(tool_modules: str) -> ToolClasses:
    """The tools that come with Carrel, those of installed packages, and those of the comma-separated modules."""
    return ToolClasses([*TOOLS, *added_tools(tool_modules)])
