"""Where a system on this machine keeps its data, when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_data_dir() -> Path:
    """`$CARREL_DATA_DIR`, else a folder in the home."""
    return Path(os.environ.get("CARREL_DATA_DIR") or "~/.local/share/carrel").expanduser()
