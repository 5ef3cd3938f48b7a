"""JSON, and text, as every store and wire takes them."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def to_json(value: Any) -> str:
    """Compact JSON; ValueError for what is no JSON value: NaN, objects, cycles, keys that are no strings, half characters."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    text.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
    return text


def from_json(text: str) -> Any:
    """The value of a JSON text; ValueError also for NaN and for depths that Python cannot hold."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def clean(value: object, limit: int) -> str:
    """Text that every store and wire takes: no NUL, no half characters, at most `limit` characters."""
    return str(value).encode("utf-8", "replace").decode().replace("\0", "")[:limit]
