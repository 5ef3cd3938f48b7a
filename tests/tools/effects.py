"""What tools of the tests have done to the world."""

from __future__ import annotations

from pathlib import Path

from tests.support.system import System


def effects(system: System, key: str) -> int:
    """How often something took effect for this key."""
    path = Path(system.stack.service_environment("tools")["CARREL_TEST_EFFECTS"])
    return path.read_text().splitlines().count(key) if path.exists() else 0
