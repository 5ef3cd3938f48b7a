"""`python -m carrel_cli`, the same as `carrel`."""

from __future__ import annotations

from carrel_cli.main import main

if __name__ == "__main__":
    main()
