"""A user's consent to one call of a tool: what it must say to be worth something. It knows no tool, no wire and no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carrel_chassis.errors import CarrelError, Kind
from carrel_tools.domain import sentence, sha256_of

SKEW_SECONDS = 5.0
"""How far the clocks of two services may be apart."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A consent as it came with a call. Times are seconds since the epoch."""

    approval_id: str
    arguments_digest: str
    user_id: str
    approve_time: float
    expire_time: float


def digest_of(tool: str, arguments: Mapping[str, Any]) -> str:
    """What a consent names the call by, in hexadecimal; the proto has the exact form."""
    return sha256_of({"arguments": arguments, "tool": tool})


def refusal_of(approval: Approval, user_id: str, digest: str, now: float) -> str:
    """Why a consent is worth nothing for this call; empty when it is good."""
    if approval.user_id != user_id:
        return "OTHER_USER"
    if not approval.approval_id or approval.arguments_digest != digest:
        return "OTHER_ARGUMENTS"
    if approval.expire_time <= now or approval.approve_time > now + SKEW_SECONDS:
        return "EXPIRED"
    return ""


def approval_required(tool: str, digest: str, expire_seconds: float, refused: str = "") -> CarrelError:
    """The question for a consent, and why one that came was not accepted."""
    prompt = sentence(f"May {tool} be called with these arguments?")
    metadata = {"tool": tool, "arguments_digest": digest, "expire_seconds": f"{expire_seconds:g}", "prompt": prompt}
    return CarrelError(
        Kind.CONFLICT,
        "APPROVAL_REQUIRED",
        f"{tool} needs the user's consent to exactly this call; ask for it, then send the step again with it.",
        metadata=metadata | ({"refused": refused} if refused else {}),
    )
