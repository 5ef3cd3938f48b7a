"""The form of a finding: what stands out in a trace, with the formulas behind its numbers and the rows that it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.agent import JSON
from carrel_agents.formula import Formula

Finding = dict[str, JSON]


def finding(
    name: str, topics: Sequence[str], title: str, statement: str, formulas: Sequence[Formula], rows: int
) -> Finding:
    """`topics` are intents of questions that it bears on, first what it is most about; the last formula gives its `value`."""
    return {
        "name": name,
        "topics": list(topics),
        "title": title,
        "statement": statement,
        "arithmetic": "; ".join(formula.text for formula in formulas),
        "value": formulas[-1].value,
        "rows": rows,
    }
