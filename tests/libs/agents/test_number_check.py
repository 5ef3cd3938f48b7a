"""A number that a model writes passes when the report has it, and takes its sentence with it when not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.libs.agents.conftest import Ask

from carrel_agents.examples import example_trace
from carrel_agents.number_check import check, known_numbers, unknown_numbers

REPORT = {
    "facts": {"requests": 19_366, "input_tokens": 22_361_870, "cost": 116.1496, "change": -12.5, "zero": 0},
    "statement": "p95 of gpt-4o-mini at 2023-11-16T18:15 is 1,234.5 ms",
    "arithmetic": "100 × 3 / 8 = 37.5",
    "flag": True,
}


@pytest.mark.parametrize(
    "sentence",
    [
        "There are 19,366 requests.",
        "There are 19366 of them, with 22,361,870 tokens.",
        "It costs 116.1496 USD, or 116.15, or 116.",
        "About 22.4 million tokens (22.36M).",
        "It fell by 12.5 %.",
        "The p95 of gpt-4o-mini at 2023-11-16T18:15 is 1,234.5 ms.",
        "37.5% of 8.",
        "Zero is 0.",
        "No number at all.",
    ],
)
def test_numbers_of_the_report_pass(sentence: str) -> None:
    assert check(sentence, REPORT) == (sentence, [])


@pytest.mark.parametrize(
    ("sentence", "numbers"),
    [
        ("There are 19,367 requests.", ["19,367"]),
        ("It costs 117 USD.", ["117"]),
        ("It costs 116.2 USD.", ["116.2"]),
        ("About 22 million.", ["22"]),
        ("About 22.5 million.", ["22.5"]),
        ("It grew by 13 %.", ["13"]),
        ("gpt-5 is 2x faster.", ["gpt-5", "2x"]),
        ("On 2023-11-17 it was 1e6.", ["2023-11-17", "1e6"]),
        ("It is ٧ or ½ or ².", ["٧", "½", "²"]),
        ("True is 1.", ["1"]),
        ("19,36,6 and 1.2.3.", ["19,36,6", "1.2.3"]),
    ],
)
def test_other_numbers_do_not(sentence: str, numbers: list[str]) -> None:
    assert unknown_numbers(sentence, known_numbers(REPORT)) == numbers
    assert check(f"Fine. {sentence} Good.", REPORT)[0] == "Fine. Good."


def test_only_the_sentence_with_the_number_goes() -> None:
    text = "There are 19,366 requests. They cost 999 USD! Is that much?\n\nAnother 777.\n\nThe end."
    kept, removed = check(text, REPORT)
    assert kept == "There are 19,366 requests. Is that much?\n\nThe end."
    assert removed == ["They cost 999 USD!", "Another 777."]


@given(st.integers(10**6, 10**12))
def test_a_made_up_number_is_never_kept(number: int) -> None:
    kept, _ = check(f"It is {number:,} tokens.", REPORT)
    assert kept == "" or number == 22_361_870


async def test_the_report_itself_passes_its_own_check(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(example_trace().read_bytes())
    report = await ask(path)
    statements = " ".join(finding["statement"] for finding in report["findings"])
    facts = json.loads(json.dumps({"facts": report["facts"], "findings": report["findings"], "cost": report["cost"]}))
    assert check(statements, facts) == (statements, [])
