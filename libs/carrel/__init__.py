"""Carrel: run agents, follow them, write them. What is named here is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carrel.agent import agent as agent
from carrel.tool import tool as tool

if TYPE_CHECKING:
    from carrel.client import Client
    from carrel.errors import CarrelClientError
    from carrel.sync import SyncClient

__all__ = ["CarrelClientError", "Client", "SyncClient", "agent", "tool"]

_HOMES = {"Client": "carrel.client", "CarrelClientError": "carrel.errors", "SyncClient": "carrel.sync"}


def __getattr__(name: str) -> Any:
    """Loads gRPC only for those who call: agents and tools import this package without it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
