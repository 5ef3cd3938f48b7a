"""JSON Schemas of authors, and values of users that must match them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

_SHOWN = 10
"""How many faults one refusal names."""


def faults(field: str, value: Any, schema: Mapping[str, Any]) -> dict[str, str]:
    """What in the value does not match, by path from `field` ("input_json.items[2]"), one sentence each; empty when all matches.

    ValueError when the schema itself cannot be used: it refers to something that it does not hold, or to itself without end.
    """
    # Without a registry of its own the library would fetch what a schema refers to.
    validator = Draft202012Validator(schema, registry=Registry())
    try:
        found = list(itertools.islice(validator.iter_errors(value), _SHOWN))
    except (Unresolvable, RecursionError) as error:
        raise ValueError(f"the schema cannot be used: {error}") from None
    return {f"{field}{fault.json_path[1:200]}": fault.message[:200] for fault in found}
