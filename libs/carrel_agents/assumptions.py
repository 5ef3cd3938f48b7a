"""The named assumptions of the agents that are not prices: what counts as short, as a repetition, as one batch."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, AgentError

DEFAULTS: dict[str, int] = {
    "short_input_tokens": 512,
    "short_output_tokens": 128,
    "repeat_seconds": 300,
    "batch_seconds": 1,
}
"""A request is short when it has at most so many tokens of each kind, and a repetition when one like it came at most so many seconds
before; requests that begin within so many seconds make one batch. Setting "assumptions" of the agents."""


def read_assumptions(settings: Mapping[str, JSON]) -> dict[str, int]:
    """The assumptions in effect; AgentError ASSUMPTIONS_INVALID when the setting is wrong."""
    given = settings.get("assumptions") or {}
    if not isinstance(given, Mapping) or set(given) - set(DEFAULTS):
        raise AgentError(
            "ASSUMPTIONS_INVALID", f'The setting "assumptions" must be an object with only {", ".join(DEFAULTS)}.'
        )
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**12:
            raise AgentError("ASSUMPTIONS_INVALID", f'Set "assumptions.{name}" to a whole number, 1 or more.')
    return {**DEFAULTS, **given}
