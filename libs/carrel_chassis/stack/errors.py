"""The one error of the launcher: a sentence for the person who called it."""

from __future__ import annotations


class StackError(Exception):
    """The system cannot be started or stopped; the message is one sentence that says what to do."""
