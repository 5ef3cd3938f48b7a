"""Holds the protos against those of the main branch: a change that breaks a client must be a new version instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).parent / "buf"
BASE = "main"


def has_base() -> bool:
    """Whether there is a main branch with protos to hold against: not in a shallow or detached checkout."""
    look = ["git", "-C", str(ROOT), "cat-file", "-e", f"{BASE}:protos/buf.yaml"]
    return subprocess.run(look, capture_output=True).returncode == 0


def main() -> None:
    if not has_base():
        sys.stderr.write(f"No branch {BASE} with protos here: the breaking check is passed over.\n")
        return
    against = f"{ROOT}/.git#branch={BASE},subdir=protos"
    sys.exit(subprocess.run([BUF, "breaking", "protos", "--against", against], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
