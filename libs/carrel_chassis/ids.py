"""What an id may look like: one alphabet, one length, and no placeholder that somebody forgot to fill in."""

from __future__ import annotations

import re
import secrets

from carrel_chassis.errors import CarrelError, invalid

MAX_LENGTH = 128

PLACEHOLDERS = frozenset(
    """none null nil nan undefined unknown registry placeholder default temp tmp test example dummy todo na n.a
    0 1 -1 true false string user_id tenant_id run_id thread_id request_id session_id""".split()
)
"""Ids of the monolith this grew out of, and of code that formats a value that is not there."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@+~-]{0,127}", re.ASCII).fullmatch
_WRAPPING = "._:@+~-"


def is_id(value: str) -> bool:
    """Whether this may stand as an id: of the safe alphabet, 1 to 128 characters, and no placeholder, wrapped in punctuation or not."""
    return _SAFE(value) is not None and value.strip(_WRAPPING).lower() not in PLACEHOLDERS


def check_id(value: str, field: str) -> str:
    """Returns the id as it is; raises INVALID_ID with the field and a sentence that says what is wrong with it."""
    if is_id(value):
        return value
    raise _refusal(value, field)


def _refusal(value: str, field: str) -> CarrelError:
    if not value:
        message = f"{field} is empty; give an id."
    elif len(value) > MAX_LENGTH:
        message = f"{field} has {len(value)} characters; an id has at most {MAX_LENGTH}."
    elif value.strip(_WRAPPING + " \t\r\n<>[](){}'\"").lower() in PLACEHOLDERS:
        message = f"{field} is a placeholder, not an id; give the real one."
    else:
        message = f"{field} has characters that an id may not have; use letters, digits and . _ : @ + ~ - only."
    return invalid(field, message, "INVALID_ID")


def new_id(prefix: str) -> str:
    """A new random id of 128 bits, for example "run-0f3c...". Ids are never guessable: uniqueness checks see all users' rows."""
    return f"{prefix}-{secrets.token_hex(16)}"
