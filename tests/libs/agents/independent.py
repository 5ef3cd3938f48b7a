"""The facts of a trace computed a second time, by plain Python over the CSV file: no SQL and nothing of the agents."""

from __future__ import annotations

import csv
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?", re.ASCII)

ROUND_MINUTES = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7200, 14_400, 28_800, 72_000, 144_000]


def facts_of(path: Path, short_input: int = 512, short_output: int = 128) -> dict[str, Any]:
    """The facts as the report has them."""
    with path.open(encoding="utf-8", newline="") as file:
        records = [{str(k).strip().lower(): v for k, v in row.items()} for row in csv.DictReader(file)]
    parsed = [(_time(r["timestamp"]), _whole(r["contexttokens"]), _whole(r["generatedtokens"]), r) for r in records]
    good = [(t, i, o, r) for t, i, o, r in parsed if t is not None and i is not None and o is not None]
    inputs, outputs = sorted(i for _, i, _, _ in good), sorted(o for _, _, o, _ in good)
    long_input, long_output = rank(inputs, 95), rank(outputs, 95)
    low_input, low_output = min(short_input, long_input), min(short_output, long_output)
    minutes = Counter(t[0] // 60 for t, _, _, _ in good)
    busiest = max(minutes.values())
    peak = min(minute for minute, n in minutes.items() if n == busiest)
    spanned = max(minutes) - min(minutes) + 1
    level = -(-len(good) // spanned)
    long = [(i, o) for _, i, o, _ in good if i > long_input]
    wordy = [o for _, _, o, _ in good if o > long_output]
    short = [(i, o) for _, i, o, _ in good if i <= low_input and o <= low_output]
    counts = sorted(minutes.values())
    q1, q3 = rank(counts, 25), rank(counts, 75)
    unusual = sorted(((n, -minute) for minute, n in minutes.items() if n > q3 + 1.5 * (q3 - q1)), reverse=True)
    start, half = min(minutes), spanned // 2
    bucket = next(step for step in ROUND_MINUTES if 60 * step >= spanned)
    firsts = [row for row in good if row[0][0] // 60 < start + half]
    lasts = [row for row in good if row[0][0] // 60 >= start + spanned - half]
    facts: dict[str, Any] = {
        "requests": len(good),
        "input_tokens": sum(inputs),
        "output_tokens": sum(outputs),
        "total_rows": len(records),
        "broken_rows": len(records) - len(good),
        "first_time": _as_given(min(good, key=lambda row: row[0])[3]["timestamp"]),
        "last_time": _as_given(max(good, key=lambda row: row[0])[3]["timestamp"]),
        "input_tokens_percentiles": {"p50": rank(inputs, 50), "p95": long_input, "max": inputs[-1]},
        "output_tokens_percentiles": {"p50": rank(outputs, 50), "p95": long_output, "max": outputs[-1]},
        "peak_minute": {
            "minute": _minute(peak),
            "requests": busiest,
        },
        "load": {
            "minutes": spanned,
            "active_minutes": len(minutes),
            "level_requests_per_minute": level,
            "minutes_above_level": sum(n > level for n in minutes.values()),
            "requests_above_level": sum(n - level for n in minutes.values() if n > level),
        },
        "halves": {
            "minutes": half,
            "requests": [len(firsts), len(lasts)],
            "tokens": [sum(i + o for _, i, o, _ in part) for part in (firsts, lasts)],
        },
        "unusual_minutes": {
            "first_quartile": q1,
            "third_quartile": q3,
            "minutes": len(unusual),
            "requests": sum(n for n, _ in unusual),
            "highest": [{"minute": _minute(-minute), "requests": n} for n, minute in unusual[:5]],
        },
        "over_time": {
            "bucket_minutes": bucket,
            "first_minute": _minute(start),
            "buckets": _buckets(good, start, bucket, -(-spanned // bucket)),
        },
        "sizes": {"input": _sizes(inputs), "output": _sizes(outputs)},
        "repeated_requests": _repeated(good, records[0]),
        "batches": {"within_seconds": 1, "calls": len({(t[0], r.get("model", "").strip()) for t, _, _, r in good})},
        "long_prompts": {
            "above_input_tokens": long_input,
            "requests": len(long),
            "tokens": sum(i + o for i, o in long),
            "excess_input_tokens": sum(i - long_input for i, _ in long),
        },
        "long_answers": {
            "above_output_tokens": long_output,
            "requests": len(wordy),
            "output_tokens": sum(wordy),
            "excess_output_tokens": sum(o - long_output for o in wordy),
        },
        "short_requests": {
            "at_most_input_tokens": low_input,
            "at_most_output_tokens": low_output,
            "requests": len(short),
            "input_tokens": sum(i for i, _ in short),
            "output_tokens": sum(o for _, o in short),
        },
    }
    if "model" in records[0]:
        facts["models"] = _models(good)
    if "latencyms" in records[0]:
        times = sorted(float(r["latencyms"]) for *_, r in good if re.fullmatch(r"\d+(\.\d+)?", r["latencyms"].strip()))
        facts["latency"] = {
            "rows": len(times),
            "p50_ms": rank(times, 50),
            "p95_ms": rank(times, 95),
            "sum_ms": sum(times),
        }
    return facts


def rank(values: list[Any], percent: int) -> Any:
    """The nearest rank: the value at index ceil(p × n) - 1 of the sorted list."""
    return values[-(-percent * len(values) // 100) - 1]


def _minute(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).isoformat()[:16]


def _buckets(good: list[Any], start: int, minutes: int, count: int) -> list[list[int]]:
    buckets = [[0, 0, 0] for _ in range(count)]
    for t, i, o, _ in good:
        bucket = buckets[(t[0] // 60 - start) // minutes]
        bucket[0] += 1
        bucket[1] += i
        bucket[2] += o
    return buckets


def _sizes(values: list[int]) -> list[dict[str, int]]:
    classes: dict[int, list[int]] = {}
    for value in values:
        classes.setdefault(value.bit_length(), []).append(value)
    return [
        {"from": 2**size // 2, "to": 2**size - 1, "requests": len(members), "tokens": sum(members)}
        for size, members in sorted(classes.items())
    ]


def _repeated(good: list[Any], columns: dict[str, Any], within: int = 300) -> dict[str, Any]:
    """Each request is held against the one before it that is like it."""
    by_prompt = "prompthash" in columns
    latest: dict[Any, int] = {}
    again = []
    for (seconds, nanoseconds), i, o, record in sorted(good, key=lambda row: row[0]):
        like = (record.get("model", "").strip(), record["prompthash"].strip() if by_prompt else (i, o))
        now = seconds * 10**9 + nanoseconds
        if like in latest and now - latest[like] <= within * 10**9:
            again.append((i, o))
        latest[like] = now
    return {
        "within_seconds": within,
        "by": "prompt" if by_prompt else "tokens",
        "requests": len(again),
        "input_tokens": sum(i for i, _ in again),
        "output_tokens": sum(o for _, o in again),
    }


def _models(good: list[Any]) -> dict[str | None, tuple[int, int, int]]:
    models: dict[str | None, tuple[int, int, int]] = {}
    for _, i, o, record in good:
        name = record["model"].strip() or None
        n, total_input, total_output = models.get(name, (0, 0, 0))
        models[name] = (n + 1, total_input + i, total_output + o)
    return models


def _time(text: str) -> tuple[int, int] | None:
    """Seconds since 1970 and nanoseconds; None for what is not a time."""
    match = TIME.fullmatch(text.strip(" \t\r"))
    if match is None:
        return None
    try:
        local = datetime.fromisoformat(f"{match[1]}T{match[2]}").replace(tzinfo=UTC)
    except ValueError:
        return None
    zone = match[4]
    if zone and zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
        local += -offset if zone[0] == "+" else offset
    return int(local.timestamp()), int((match[3] or "").ljust(9, "0"))


def _as_given(text: str) -> str:
    return text.strip(" \t\r").replace(" ", "T")


def _whole(text: str | None) -> int | None:
    text = (text or "").strip(" \t\r")
    return int(float(text)) if re.fullmatch(r"[0-9]{1,12}(\.0+)?", text) else None
