"""Requests to models as values: what of them is the same in each attempt of a run. It knows no model, no wire and no clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from carrel.agent import JSON
from carrel.model_answer import text_of

Write: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Takes (message_id, delta): a text grows by a piece. When a text begins anew it has another id."""


def text_in(response: Mapping[str, JSON]) -> str:
    """The text that the user sees of a response; "" when it has none, or is of another form."""
    try:
        return text_of(response)
    except (KeyError, TypeError):
        return ""
