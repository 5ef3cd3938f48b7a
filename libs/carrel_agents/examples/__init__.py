"""The example trace that comes with the agents: generated, not recorded from any service."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def example_trace() -> Traversable:
    """The CSV file with TIMESTAMP, ContextTokens, GeneratedTokens, Model and LatencyMs, wherever the package lies."""
    return files(__name__) / "example_trace.csv"
