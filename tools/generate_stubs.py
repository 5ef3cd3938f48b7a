"""Generates the typed stubs in libs/carrel/api from protos/; with --check it says whether the committed ones are fresh."""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "libs" / "carrel" / "api"


def generate(target: Path) -> None:
    """Writes stubs of every proto below `target`, as packages carrel.api.<noun>.v1."""
    # protoc finds the mypy plug-in on the PATH; it lies beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *sources,
        ]
    )
    if code != 0:
        sys.exit(f"protoc failed with exit code {code}")
    for stub in target.rglob("*_pb2_grpc.py*"):
        if (
            not (PROTOS / stub.relative_to(target))
            .with_name(stub.name.split("_pb2")[0] + ".proto")
            .read_text()
            .count("\nservice ")
        ):
            stub.unlink()  # protoc writes an empty file for a proto without a service
    for folder in [target / "carrel" / "api", *(target / "carrel" / "api").rglob("*")]:
        if folder.is_dir():
            (folder / "__init__.py").touch()


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names the files that are missing, left over or different."""

    def names(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*.py*") if path.suffix in {".py", ".pyi"}}

    left, right = names(fresh), names(committed)
    changed = {name for name in left & right if not filecmp.cmp(fresh / name, committed / name, shallow=False)}
    return sorted(str(name) for name in (left ^ right) | changed)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "carrel" / "api"
        if "--check" in sys.argv[1:]:
            if stale := differences(fresh, STUBS):
                sys.exit("The stubs are not fresh; run `make proto`: " + ", ".join(stale))
            return
        shutil.rmtree(STUBS, ignore_errors=True)
        shutil.copytree(fresh, STUBS)


if __name__ == "__main__":
    main()
