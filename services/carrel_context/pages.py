"""Pages of lists: sizes, and tokens that only their own list takes. It knows no table."""

from __future__ import annotations

import base64
import binascii

from carrel_chassis.errors import invalid


def page_size(asked: int, default: int, most: int) -> int:
    """The size of a page; INVALID_ARGUMENT beyond the greatest."""
    if asked > most:
        raise invalid("page_size", f"page_size is {asked}; it is at most {most}.")
    return asked or default


def write_token(kind: str, *parts: str) -> str:
    """Where the next page begins, for the list of this kind."""
    return base64.urlsafe_b64encode("\n".join((kind, *parts)).encode()).decode()


def read_token(token: str, kind: str, count: int) -> list[str]:
    """The parts of a token; CURSOR_INVALID when this list did not give it out. Nothing that it says widens what is seen."""
    try:
        found, *parts = base64.b64decode(token, altchars=b"-_", validate=True).decode().split("\n")
    except (binascii.Error, UnicodeDecodeError):
        found, parts = "", []
    if found != kind or len(parts) != count or any("\0" in part for part in parts):
        message = "page_token is not one that this list gave out; begin again without one."
        raise invalid("page_token", message, "CURSOR_INVALID")
    return parts
