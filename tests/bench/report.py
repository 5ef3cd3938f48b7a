"""Figures: measured, printed as a table, written to build/bench.json. It knows nothing of what is measured."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OUTPUT = Path(__file__).resolve().parents[2] / "build" / "bench.json"


@dataclass(frozen=True)
class Figure:
    """One measured value. `goal` is what was promised, with its sense ("< 25"); `ratio` is value / baseline of the same run."""

    name: str
    value: float
    unit: str
    goal: str = ""
    baseline: float | None = None
    ratio: float | None = None
    conditions: str = ""

    def met(self) -> bool | None:
        """Whether the goal is met; None without one. A goal on a ratio is written "ratio > 0.7"."""
        if not self.goal:
            return None
        *of, sense, bound = self.goal.split()
        measured = self.ratio if of == ["ratio"] else self.value
        assert measured is not None
        return measured < float(bound) if sense == "<" else measured > float(bound)


def percentile(values: list[float], share: float) -> float:
    """The value by nearest rank; `share` is between 0 and 1."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1)]


def print_table(figures: list[Figure]) -> None:
    """The figures for a person, goals that are not met included."""
    table = Table(title="Carrel, measured")
    for column in ("figure", "value", "unit", "goal", "baseline", "ratio", "met", "conditions"):
        table.add_column(column, justify="right" if column in {"value", "baseline", "ratio"} else "left")
    for figure in figures:
        met = {True: "yes", False: "[red]no[/red]", None: ""}[figure.met()]
        numbers = [
            "" if n is None else f"{n:,.4g}" if n < 1000 else f"{n:,.0f}"
            for n in (figure.value, figure.baseline, figure.ratio)
        ]
        table.add_row(figure.name, numbers[0], figure.unit, figure.goal, numbers[1], numbers[2], met, figure.conditions)
    Console(width=190).print(table)


def write_json(figures: list[Figure]) -> None:
    """Keeps the figures: those measured now replace their namesakes, the rest stays."""
    OUTPUT.parent.mkdir(exist_ok=True)
    kept = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else []
    fresh = {figure.name for figure in figures}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    rows = [row for row in kept if row["name"] not in fresh]
    rows += [{**asdict(figure), "conditions": f"{figure.conditions}; {machine}".strip("; ")} for figure in figures]
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n")
