"""The facts of a report equal those that plain Python computes from the same file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.libs.agents.conftest import Ask
from tests.libs.agents.independent import facts_of

from carrel_agents.examples import example_trace
from carrel_agents.examples.generate import write as write_example

Write = Callable[..., Path]

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def same_facts(report: dict[str, Any], path: Path) -> None:
    """Asserts that a report states what plain Python finds in the file."""
    expected = facts_of(path)
    models, latency = expected.pop("models", None), expected.pop("latency", None)
    assert {name: report["facts"][name] for name in expected} == expected
    if models is not None:
        stated = report["facts"]["by_model"]
        assert {m["model"]: (m["requests"], m["input_tokens"], m["output_tokens"]) for m in stated} == models
    if latency is not None:
        assert {name: report["facts"]["latency"][name] for name in latency} == pytest.approx(latency)


async def test_the_real_trace(ask: Ask, real_trace: Path) -> None:
    report = await ask(real_trace)
    facts = report["facts"]
    assert (facts["requests"], facts["input_tokens"], facts["output_tokens"]) == (19_366, 22_361_870, 4_088_665)
    assert facts["first_time"] == "2023-11-16T18:15:46.6805900"
    same_facts(report, real_trace)


async def test_the_first_thousand_rows(ask: Ask, real_lines: list[str], write: Write) -> None:
    path = write(*real_lines[:1_001])
    report = await ask(path)
    assert report["facts"]["requests"] == 1_000
    same_facts(report, path)


async def test_the_order_of_the_rows_does_not_matter(
    ask: Ask, real_trace: Path, real_lines: list[str], write: Write
) -> None:
    header, *rows = real_lines
    Random(7).shuffle(rows)
    shuffled = await ask(write(header, *rows))
    assert shuffled == await ask(real_trace)


@pytest.mark.parametrize("seed", [1, 2])
async def test_broken_rows_are_counted_and_left_out(ask: Ask, real_lines: list[str], write: Write, seed: int) -> None:
    random = Random(seed)
    header, *rows = real_lines
    broken = set(random.sample(range(len(rows)), len(rows) // 5))
    path = write(header, *(breaking(row, random) if n in broken else row for n, row in enumerate(rows)))
    report = await ask(path)
    assert report["facts"]["broken_rows"] == len(broken)
    assert "could not be read" in report["markdown"]
    same_facts(report, path)


def breaking(row: str, random: Random) -> str:
    """The same row with one of its three values made unreadable, in one of the ways that traces have."""
    cells = row.split(",")
    wrong = {
        0: ["", "yesterday", "2023-13-16 18:15:46", "2023-11-16", "18:15:46", "2023-11-16 18:61:00", "1700158546"],
        1: ["", "NaN", "-5", "many", "12.5", "1e3", "٣"],
        2: ["", "null", "-1", "0x10", "7 tokens", "99999999999999999999"],
    }
    which = random.randrange(3)
    cells[which] = random.choice(wrong[which])
    return ",".join(cells)


@pytest.mark.parametrize(
    "header",
    [
        "timestamp,contexttokens,generatedtokens",
        "TimeStamp,CONTEXTTOKENS,GENERATEDTOKENS",
        " TIMESTAMP , ContextTokens,GeneratedTokens ",
    ],
)
async def test_columns_are_found_in_any_case(ask: Ask, write: Write, header: str) -> None:
    path = write(header, "2023-11-16 18:15:46.68,374,44", " 2023-11-16T18:17:01 , 12 ,3.0")
    report = await ask(path)
    assert (report["facts"]["requests"], report["facts"]["output_tokens"]) == (2, 47)
    same_facts(report, path)


async def test_columns_may_come_in_any_order_and_with_others(ask: Ask, write: Write) -> None:
    report = await ask(write('GeneratedTokens,"a ""note""",TIMESTAMP,ContextTokens', "44,x,2023-11-16 18:15:46,374"))
    assert (report["facts"]["input_tokens"], report["facts"]["output_tokens"]) == (374, 44)


async def test_the_example_has_models_and_latency(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path)
        same_facts(report, path)
    assert report["triage"]["sufficiency"] == "sufficient"


def test_the_example_is_what_its_generator_writes(tmp_path: Path) -> None:
    write_example(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == example_trace().read_bytes()


def burst(minutes: int = 200, at: int = 150, requests: int = 40) -> list[str]:
    """One request a minute, from the middle on two, and in one minute many; more minutes than a chart has bars."""
    rows = []
    for minute in range(minutes):
        count = requests if minute == at else 1 + (minute >= minutes // 2)
        time = f"2023-11-16 {minute // 60:02d}:{minute % 60:02d}"
        rows += [f"{time}:{second:02d},{100 + minute},{second}" for second in range(count)]
    return rows


async def test_a_burst_and_a_rise_are_found(ask: Ask, write: Write) -> None:
    path = write(HEADER, *burst())
    report = await ask(path, "When is the peak?")
    same_facts(report, path)
    unusual = report["facts"]["unusual_minutes"]
    assert unusual["minutes"] == 1 and unusual["highest"] == [{"minute": "2023-11-16T02:30", "requests": 40}]
    assert report["facts"]["over_time"]["bucket_minutes"] == 5 and len(report["facts"]["over_time"]["buckets"]) == 40
    statements = {finding["name"]: finding["statement"] for finding in report["findings"]}
    assert "2023-11-16T02:30 with 40" in statements["unusual_minutes"] and "100 to 238 (138.0 %)" in statements["trend"]


async def test_time_without_requests_is_in_the_chart_too(ask: Ask, write: Write) -> None:
    path = write(HEADER, "2023-11-16 00:00:00,1,1", "2023-11-18 00:00:00,1,1")
    report = await ask(path)
    same_facts(report, path)
    buckets = report["facts"]["over_time"]["buckets"]
    assert buckets[0] == buckets[-1] == [1, 1, 1] and buckets[1:-1] == [[0, 0, 0]] * (len(buckets) - 2)


async def test_prompts_that_repeat_are_counted_by_their_hash_where_there_is_one(ask: Ask, write: Write) -> None:
    rows = [
        "2023-11-16 18:15:46,10,1,a",
        "2023-11-16 18:15:47,10,1,b",
        "2023-11-16 18:20:46,11,2,a",
        "2023-11-16 18:25:47,12,2,a",
    ]
    path = write(f"{HEADER},PromptHash", *rows)
    report = await ask(path)
    assert report["facts"]["repeated_requests"]["requests"] == 1, "exactly five minutes after, and one second more"
    same_facts(report, path)
    alike = await ask(write(HEADER, *(row.rsplit(",", 1)[0] for row in rows)))
    assert alike["facts"]["repeated_requests"] | {"requests": 1} == alike["facts"]["repeated_requests"]
    assert any(
        "at most" in finding["statement"].lower() for finding in alike["findings"] if finding["name"] == "repeated"
    )


async def test_only_the_time_that_is_asked_about_is_counted(ask: Ask, real_lines: list[str], write: Write) -> None:
    header, *rows = real_lines
    wanted = [row for row in rows if "2023-11-16 18:20" <= row < "2023-11-16 18:31"]
    report = await ask(write(header, *rows), "What did it cost from 2023-11-16 18:20 to 2023-11-16T18:30?")
    assert report["triage"]["time_range"] == {"begin": "2023-11-16T18:20:00", "end": "2023-11-16T18:31:00"}
    assert report["facts"]["rows_outside_the_time_range"] == len(rows) - len(wanted)
    path = write(header, *wanted)
    expected = facts_of(path)
    del expected["total_rows"]
    assert {name: report["facts"][name] for name in expected} == expected
    assert "are outside" in report["markdown"]


async def test_times_with_a_zone_are_compared_as_instants(ask: Ask, write: Write) -> None:
    path = write(
        HEADER, "2023-11-16T20:00:30+02:00,5,1", "2023-11-16T18:00:10Z,5,1", "2023-11-16T17:59:59.9999999Z,5,1"
    )
    report = await ask(path)
    assert report["facts"]["time_zone"] == "as given"
    assert report["facts"]["last_time"] == "2023-11-16T20:00:30+02:00"
    assert report["facts"]["peak_minute"] == {"minute": "2023-11-16T18:00", "requests": 2}
    same_facts(report, path)


async def test_latency_that_cannot_be_read_is_left_out_of_latency_only(ask: Ask, write: Write) -> None:
    path = write(f"{HEADER},LatencyMs", "2023-11-16 18:15:46,10,2,100.5", "2023-11-16 18:15:47,10,2,slow")
    report = await ask(path, question="How slow?")
    assert report["facts"]["requests"] == 2
    assert (report["facts"]["latency"]["rows"], report["facts"]["latency"]["unreadable_rows"]) == (1, 1)
    same_facts(report, path)


async def test_one_row_is_a_trace(ask: Ask, write: Write) -> None:
    path = write(HEADER, "2023-11-16 18:15:46,0,0")
    report = await ask(path)
    same_facts(report, path)
    assert report["cost"]["amount"] == 0
    assert report["recommendations"] == []


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 60, 100, 101])
async def test_percentiles_are_by_nearest_rank(ask: Ask, write: Write, count: int) -> None:
    path = write(HEADER, *(f"2023-11-16 18:15:46,{n},{n * n}" for n in range(count)))
    same_facts(await ask(path), path)


async def test_times_are_told_apart_by_a_tenth_of_a_microsecond(ask: Ask, write: Write) -> None:
    times = ["2023-11-16 18:15:59.9999997", "2023-11-16 18:15:59.9999999", "2023-11-16 18:15:59.9999991"]
    path = write(HEADER, *(f"{time},1,1" for time in times))
    report = await ask(path)
    assert report["facts"]["peak_minute"] == {"minute": "2023-11-16T18:15", "requests": 3}
    same_facts(report, path)
