"""Rules over tools as values, and what they come to for one call. It knows no tool, no clock, no wire and no database."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from carrel_chassis.errors import invalid

MAX_RULES = 200
MAX_VALUES = 100
MOST_PRIORITY = 1000

_RULE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII).fullmatch
_PATTERN = re.compile(r"[A-Za-z0-9_.*-]{1,128}", re.ASCII).fullmatch
_POINTER = re.compile(r"(/([^~/]|~[01])*){1,20}").fullmatch
_ABSENT = object()


class Effect(Enum):
    """What a rule says of a call."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"


_STRICTEST_FIRST = (Effect.DENY, Effect.REQUIRE_APPROVAL, Effect.ALLOW)


@dataclass(frozen=True, slots=True)
class Condition:
    """An argument equals one of some values; an absent one does not."""

    pointer: str
    """A JSON Pointer (RFC 6901) into the arguments."""
    values: frozenset[str]
    """As `comparable` writes them."""

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it is so."""
        found = _at(self.pointer, arguments)
        return found is not _ABSENT and comparable(found) in self.values


@dataclass(frozen=True, slots=True)
class Rule:
    """Says one thing of the calls that it fits."""

    rule_id: str
    effect: Effect
    tools: tuple[str, ...]
    """Names; "*" stands for any run of characters."""
    scopes: frozenset[str] = frozenset()
    user_ids: frozenset[str] = frozenset()
    conditions: tuple[Condition, ...] = ()
    priority: int = 0

    def speaks_of(self, user_id: str, scopes: Collection[str], tool: str) -> bool:
        """Whether it fits, whatever the arguments are."""
        return (
            any(_fits(pattern, tool) for pattern in self.tools)
            and self.scopes.issubset(scopes)
            and (not self.user_ids or user_id in self.user_ids)
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of a call, by which rule of which version of the policy."""

    effect: Effect
    rule_id: str
    policy_version: str


class Policy:
    """The rules of a tenant. What no rule allows is denied."""

    def __init__(self, rules: Sequence[Rule], version: str) -> None:
        self.rules = tuple(rules)
        self.version = version
        self._in_order = sorted(
            rules, key=lambda rule: (-rule.priority, _STRICTEST_FIRST.index(rule.effect), rule.rule_id)
        )

    def decide(self, user_id: str, scopes: Collection[str], tool: str, arguments: Mapping[str, Any]) -> Decision:
        """What the first rule that fits says."""
        for rule in self._in_order:
            if rule.speaks_of(user_id, scopes, tool) and all(each.holds(arguments) for each in rule.conditions):
                return Decision(rule.effect, rule.rule_id, self.version)
        return self.denied("NO_RULE")

    def view(self, user_id: str, scopes: Collection[str], tool: str) -> Decision:
        """DENY when the tool is denied with all arguments: then it does not exist for the user."""
        for rule in self._in_order:
            # A conditional denial leaves the rest; a conditional permission is enough to be seen.
            if rule.speaks_of(user_id, scopes, tool) and (rule.effect is not Effect.DENY or not rule.conditions):
                return Decision(rule.effect, rule.rule_id, self.version)
        return self.denied("NO_RULE")

    def denied(self, rule_id: str) -> Decision:
        """A denial that comes from no rule of this policy."""
        return Decision(Effect.DENY, rule_id, self.version)


def _fits(pattern: str, tool: str) -> bool:
    """Whether a name is of a pattern. By hand: a translated expression would go back and forth over patterns of many stars."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == tool
    if not tool.startswith(first):
        return False
    place = len(first)
    for part in rest[:-1]:
        found = tool.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return len(tool) - place >= len(rest[-1]) and tool.endswith(rest[-1])


def _at(pointer: str, value: Any) -> Any:
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _ABSENT
    return value


def comparable(value: Any) -> str:
    """One text for JSON values that are the same: 1.0 is 1, or a rule on 1 could be walked around; true is not."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case _:
            return value


def check_rules(rules: Sequence[Rule]) -> None:
    """Raises INVALID_ARGUMENT naming the rule and what is wrong with it."""
    if len(rules) > MAX_RULES:
        raise invalid("rules", f"There are {len(rules)} rules; there may be {MAX_RULES}.")
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        if fault := _fault(rule, seen):
            field, message = fault
            raise invalid(f"rules[{number}].{field}", f"Rule {number} ({rule.rule_id[:64]}): {message}")
        seen.add(rule.rule_id)


def _fault(rule: Rule, seen: set[str]) -> tuple[str, str] | None:
    if not _RULE_ID(rule.rule_id):
        return "rule_id", "rule_id must have 1 to 64 letters, digits and ._-"
    if rule.rule_id in seen:
        return "rule_id", "another rule has this rule_id."
    if not 1 <= len(rule.tools) <= MAX_VALUES:
        return "tools", f"name 1 to {MAX_VALUES} tools, or * for all."
    if wrong := [each for each in rule.tools if not _PATTERN(each)]:
        return "tools", f"{wrong[0][:64]!r} is no name of a tool, nor a pattern of names."
    if len(rule.scopes) > MAX_VALUES or len(rule.user_ids) > MAX_VALUES or len(rule.conditions) > MAX_VALUES:
        return "scopes", f"there may be {MAX_VALUES} scopes, users and conditions."
    if abs(rule.priority) > MOST_PRIORITY:
        return "priority", f"priority must be from -{MOST_PRIORITY} to {MOST_PRIORITY}."
    for condition in rule.conditions:
        if not _POINTER(condition.pointer):
            return "conditions", f"{condition.pointer[:64]!r} is no JSON Pointer to an argument; write /name."
        if not 1 <= len(condition.values) <= MAX_VALUES:
            return "conditions", f"a condition needs 1 to {MAX_VALUES} values."
    return None


def rules_json(rules: Sequence[Rule]) -> str:
    """Rules as they are stored."""
    return json.dumps(
        [
            {
                "rule_id": rule.rule_id,
                "effect": rule.effect.value,
                "tools": list(rule.tools),
                "scopes": sorted(rule.scopes),
                "user_ids": sorted(rule.user_ids),
                "conditions": [{"pointer": each.pointer, "values": sorted(each.values)} for each in rule.conditions],
                "priority": rule.priority,
            }
            for rule in rules
        ],
        ensure_ascii=False,
    )


def read_rules_json(text: str) -> list[Rule]:
    """Rules that `rules_json` wrote."""
    return [
        Rule(
            rule_id=each["rule_id"],
            effect=Effect(each["effect"]),
            tools=tuple(each["tools"]),
            scopes=frozenset(each["scopes"]),
            user_ids=frozenset(each["user_ids"]),
            conditions=tuple(Condition(one["pointer"], frozenset(one["values"])) for one in each["conditions"]),
            priority=each["priority"],
        )
        for each in json.loads(text)
    ]
