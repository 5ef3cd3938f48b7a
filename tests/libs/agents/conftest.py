"""What the tests of the agents share: the real trace where it lies, traces written for a test, and a run of an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.agents import Corpora, LocalRun, Record

REAL_TRACE = Path(__file__).resolve().parents[4] / "shared/data/azure_llm_inference_2023_conv.csv"

Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(scope="session")
def real_trace() -> Path:
    if not REAL_TRACE.exists():
        pytest.skip(f"the real trace is not at {REAL_TRACE}; see shared/data/README.md")
    return REAL_TRACE


@pytest.fixture(scope="session")
def real_lines(real_trace: Path) -> list[str]:
    return real_trace.read_text().splitlines()


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def ask(record: Record) -> Iterator[Ask]:
    """Runs an agent over one file as the corpus "trace": await ask(path, question=..., agent=..., settings=...)."""
    with ExitStack() as stack:

        async def run(
            path: Path,
            question: str = "What does it cost?",
            agent: str = "supervisor",
            settings: dict[str, Any] | None = None,
            **input: Any,
        ) -> dict[str, Any]:
            corpora = Corpora({"trace": path})
            stack.callback(corpora.close)
            given = {"question": question, "corpus": "trace", **input}
            result: dict[str, Any] = await LocalRun(agent, corpora, settings, record).start(given)
            return result

        yield run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines to a file, with the line ends of the real trace, and returns its path."""

    def to_file(*lines: str) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes("".join(line + "\r\n" for line in lines).encode())
        return path

    return to_file
