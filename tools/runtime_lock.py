"""Prints the part of requirements.lock that a project's dependencies (or the named packages) need, hashes and all.

The lock holds everything, the tools of development and the embedded engines too; an image wants neither. What leads to what
is read from the "via" comments that uv writes beneath each package.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_START = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_VIA = re.compile(r"^    # (?:via|  )(?: )?([a-z0-9][a-z0-9._-]*)", re.MULTILINE)


def name_of(requirement: str) -> str:
    """The name as the lock spells it."""
    found = _NAME.match(requirement)
    assert found is not None, f"{requirement!r} names no package"
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def needed(lock: str, roots: set[str]) -> list[str]:
    """The blocks of the lock for the roots and for all that they lead to, in the order of the lock."""
    blocks = {name_of(block): block for block in _START.split(lock) if block.strip()}
    if missing := roots - blocks.keys():
        raise SystemExit(f"requirements.lock lacks {', '.join(sorted(missing))}: say make lock.")
    wanted = set(roots)
    while more := {name for name, block in blocks.items() if wanted & set(_VIA.findall(block))} - wanted:
        wanted |= more
    return [block for name, block in blocks.items() if name in wanted]


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = sys.argv[1:] or project["dependencies"]
    sys.stdout.write("".join(needed((ROOT / "requirements.lock").read_text(), {name_of(root) for root in roots})))


if __name__ == "__main__":
    main()
