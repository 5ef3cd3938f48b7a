"""What a command says when it cannot do what was asked: one sentence and a reason, whoever refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from carrel_chassis.errors import CarrelError

if TYPE_CHECKING:
    from carrel.errors import CarrelClientError


class CommandError(Exception):
    """A refusal of the command line's own; the message is one sentence that says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Refusal:
    """An error as it is shown."""

    reason: str
    message: str
    details: dict[str, object] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """For `--json`."""
        return {"error": {"reason": self.reason, "message": self.message, **self.details}}

    def sentence(self) -> str:
        """For a person."""
        return f"carrel: {self.message} [{self.reason}]"


def refusal(error: Exception) -> Refusal | None:
    """How the error is shown; None for a fault of ours, which deserves its traceback."""
    if isinstance(error, CommandError | CarrelError):
        return Refusal(error.reason, error.message)
    # Imported when they are needed: the one brings gRPC along, the other the launcher.
    from carrel.errors import CarrelClientError

    if isinstance(error, CarrelClientError):
        return Refusal(error.reason or error.code.name, error.message, _details(error))
    from carrel_chassis.stack import StackError

    return Refusal("STACK", str(error)) if isinstance(error, StackError) else None


def _details(error: CarrelClientError) -> dict[str, object]:
    found = {"code": error.code.name, "metadata": error.metadata, "fields": error.fields}
    return {name: value for name, value in found.items() if value}
