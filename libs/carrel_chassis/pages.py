"""Pages of lists: their sizes, and tokens that only their own list takes. It knows no table.

A token says where the next page begins, and nothing else: whose list it is says the caller's context, so that a token widens nothing.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from carrel_chassis.errors import CarrelError, invalid

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def page_size(asked: int, default: int = 50, most: int = 200) -> int:
    """How many things a page may hold; 0 asks for the default. INVALID_ARGUMENT beyond the most."""
    if asked > most:
        raise invalid("page_size", f"page_size is {asked}; it may be 1 to {most}.")
    return asked or default


def list_name(kind: str, *filters: str) -> str:
    """By which the tokens of a list are known: what is listed, and under which filters."""
    digest = hashlib.sha256("\n".join(filters).encode()).hexdigest()[:8]
    return f"{kind}:{digest}" if any(filters) else kind


def write_token(of: str, *parts: str) -> str:
    """Where the next page of the list begins."""
    return base64.urlsafe_b64encode("\n".join((of, *parts)).encode()).decode()


def read_token(token: str, of: str, count: int) -> list[str]:
    """The parts of a token; CURSOR_INVALID when this list did not give it out."""
    try:
        found, *parts = base64.b64decode(token, altchars=b"-_", validate=True).decode().split("\n")
    except ValueError:  # of which binascii.Error and UnicodeDecodeError are kinds
        raise _cursor_invalid() from None
    if found != of or len(parts) != count or any("\0" in part for part in parts):
        raise _cursor_invalid()
    return parts


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list in the order of time: it goes on after the thing of this time and id."""

    of: str
    size: int
    create_time: datetime
    id: str

    @classmethod
    def newest_first(cls, of: str, asked: int, token: str) -> Page:
        """A page of a list whose newest thing comes first. Raises INVALID_ARGUMENT for the size, CURSOR_INVALID for the token."""
        return cls(of, page_size(asked), *(_position(of, token) if token else (LATEST, "")))

    @classmethod
    def oldest_first(cls, of: str, asked: int, token: str) -> Page:
        """The same of a list whose oldest thing comes first."""
        return cls(of, page_size(asked), *(_position(of, token) if token else (EARLIEST, "")))

    def token_after(self, create_time: datetime, id: str) -> str:
        """The token of the page after this thing."""
        return write_token(self.of, str((create_time - EARLIEST) // timedelta(microseconds=1)), id)


def _position(of: str, token: str) -> tuple[datetime, str]:
    micros, id = read_token(token, of, 2)
    try:
        return EARLIEST + timedelta(microseconds=int(micros)), id
    except (ValueError, OverflowError):
        raise _cursor_invalid() from None


def _cursor_invalid() -> CarrelError:
    message = "page_token is not one that this list gave out; begin again without one."
    return invalid("page_token", message, "CURSOR_INVALID")
