"""Pages of lists that go from the newest to the oldest: sizes, and tokens that only their own list takes. It knows no table."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from carrel_chassis.errors import invalid
from carrel_chassis.ids import is_id
from carrel_execution.domain import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEWEST = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list; checked. It goes on after the thing of this time and id."""

    kind: str
    size: int
    create_time: datetime = _NEWEST
    id: str = ""

    @classmethod
    def checked(cls, kind: str, size: int, token: str) -> Page:
        """Raises INVALID_ARGUMENT for a wrong size, and CURSOR_INVALID for a token of another list."""
        if size > MAX_PAGE_SIZE:
            raise invalid("page_size", f"page_size is {size}; it may be 1 to {MAX_PAGE_SIZE}.")
        after = _position(kind, token) if token else (_NEWEST, "")
        return cls(kind, size or DEFAULT_PAGE_SIZE, *after)

    def token_after(self, create_time: datetime, id: str) -> str:
        """The token of the page after this thing."""
        micros = (create_time - _EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(f"{self.kind} {micros} {id}".encode()).decode()


def _position(kind: str, token: str) -> tuple[datetime, str]:
    try:
        found, micros, id = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").split(" ")
        create_time = _EPOCH + timedelta(microseconds=int(micros))
        if found == kind and is_id(id):
            return create_time, id
    except (ValueError, OverflowError):  # binascii.Error is a ValueError
        pass
    message = "page_token is not one that this list gave out; begin again without one."
    raise invalid("page_token", message, "CURSOR_INVALID")
