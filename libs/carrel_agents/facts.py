"""The facts of a trace as plain JSON, put together from the rows that SQL returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from carrel.agent import JSON, AgentError
from carrel_agents.trace import Columns

Row = Mapping[str, JSON]


def require_readable_rows(corpus: str, totals: Row) -> None:
    """Raises AgentError TRACE_EMPTY, TRACE_UNREADABLE or TRACE_OUTSIDE_TIME_RANGE where there is nothing to compute from."""
    if totals["total_rows"] == 0:
        raise AgentError("TRACE_EMPTY", f'The corpus "{corpus}" has no rows: upload a trace with at least one request.')
    if totals["outside"] and not totals["requests"]:
        raise AgentError(
            "TRACE_OUTSIDE_TIME_RANGE",
            f'None of the {totals["outside"]:,} readable rows of "{corpus}" is in the time that you ask about: name another.',
        )
    if totals["requests"] == 0:
        raise AgentError(
            "TRACE_UNREADABLE",
            f'None of the {totals["total_rows"]:,} rows of "{corpus}" can be read ({_bad(totals)}): write times as '
            "2023-11-16T18:15:46.68 and tokens as whole numbers.",
        )


def limits(totals: Row, assumptions: Mapping[str, int]) -> dict[str, int]:
    """What makes a request long, short or a repetition.

    A request is short only if it is not also long, so that the savings on short and on long requests never overlap.
    """
    return {
        "input_p95": totals["input_p95"],
        "output_p95": totals["output_p95"],
        "short_input": min(assumptions["short_input_tokens"], totals["input_p95"]),
        "short_output": min(assumptions["short_output_tokens"], totals["output_p95"]),
        "repeat_seconds": assumptions["repeat_seconds"],
        "batch_seconds": assumptions["batch_seconds"],
    }


def volume(columns: Columns, totals: Row) -> dict[str, JSON]:
    """What triage counts: requests, tokens, times, what could not be read; `latency` only where the trace has such a column."""
    outside = totals["outside"]
    return {
        "requests": totals["requests"],
        "input_tokens": totals["input_tokens"],
        "output_tokens": totals["output_tokens"],
        "total_rows": totals["total_rows"],
        "broken_rows": totals["total_rows"] - totals["requests"] - outside,
        **({"rows_outside_the_time_range": outside} if outside else {}),
        "broken_by_column": {_name(columns, role): totals[f"bad_{role}"] for role in ("time", "input", "output")},
        "first_time": totals["first_time"],
        "last_time": totals["last_time"],
        "time_zone": _time_zone(totals),
        "models": totals["models"],
        "input_tokens_percentiles": _percentiles(totals, "input"),
        "output_tokens_percentiles": _percentiles(totals, "output"),
        **({} if columns["latency"] is None else {"latency": _latency(totals)}),
    }


def by_kind(columns: Mapping[str, str | None], groups: Sequence[Row], limits: Mapping[str, int]) -> dict[str, JSON]:
    """What optimization counts: long, short and repeated requests, batches; `by_model` only where the trace has such a column."""

    def total(name: str) -> int:
        return sum(group[name] for group in groups)

    return {
        "long_prompts": {
            "above_input_tokens": limits["input_p95"],
            "requests": total("long_prompts"),
            "tokens": total("long_prompt_tokens"),
            "excess_input_tokens": total("excess_input"),
        },
        "long_answers": {
            "above_output_tokens": limits["output_p95"],
            "requests": total("long_answers"),
            "output_tokens": total("long_answer_output"),
            "excess_output_tokens": total("excess_output"),
        },
        "short_requests": {
            "at_most_input_tokens": limits["short_input"],
            "at_most_output_tokens": limits["short_output"],
            "requests": total("short_requests"),
            "input_tokens": total("short_input"),
            "output_tokens": total("short_output"),
        },
        "repeated_requests": {
            "within_seconds": limits["repeat_seconds"],
            "by": "tokens" if columns["prompt"] is None else "prompt",
            "requests": total("repeated_requests"),
            "input_tokens": total("repeated_input"),
            "output_tokens": total("repeated_output"),
        },
        "batches": {"within_seconds": limits["batch_seconds"], "calls": total("calls")},
        **({} if columns["model"] is None else {"by_model": [_of_model(group, columns) for group in groups]}),
    }


def in_time(load: Row, series: Sequence[Row], sizes: Sequence[Row], bucket_minutes: int) -> dict[str, JSON]:
    """What data counts: the load by minute, its trend, its unusual minutes, and what the charts show."""
    return {
        "peak_minute": {"minute": minute_text(load["peak_minute"]), "requests": load["peak_requests"]},
        "load": {
            "minutes": load["minutes"],
            "active_minutes": load["active_minutes"],
            "level_requests_per_minute": load["level"],
            "minutes_above_level": load["minutes_above_level"],
            "requests_above_level": load["requests_above_level"],
        },
        "halves": {
            "minutes": load["half_minutes"],
            "requests": [load["first_half_requests"], load["last_half_requests"]],
            "tokens": [load["first_half_tokens"], load["last_half_tokens"]],
        },
        "unusual_minutes": {
            "first_quartile": load["q1"],
            "third_quartile": load["q3"],
            "minutes": load["unusual_minutes"],
            "requests": load["unusual_requests"],
            "highest": [{"minute": minute_text(minute), "requests": n} for minute, n in load["unusual_peaks"]],
        },
        "over_time": {
            "bucket_minutes": bucket_minutes,
            "first_minute": minute_text(load["first_minute"]),
            "buckets": _filled(series, -(-load["minutes"] // bucket_minutes)),
        },
        "sizes": {kind: [_size(row) for row in sizes if row["kind"] == kind] for kind in ("input", "output")},
    }


def minute_text(minute: int) -> str:
    """A minute since 1970 as ISO 8601 without a zone."""
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%dT%H:%M")


def _filled(series: Sequence[Row], count: int) -> list[list[int]]:
    """Requests, input and output tokens of each bucket, those without a request too."""
    found = {row["bucket"]: [row["requests"], row["input_tokens"], row["output_tokens"]] for row in series}
    return [found.get(bucket, [0, 0, 0]) for bucket in range(count)]


def _size(row: Row) -> dict[str, JSON]:
    """A size class is that of the numbers with so many binary digits."""
    digits = row["size"]
    bounds = {"from": 0, "to": 0} if digits == 0 else {"from": 2 ** (digits - 1), "to": 2**digits - 1}
    return {**bounds, "requests": row["requests"], "tokens": row["tokens"]}


def _percentiles(totals: Row, column: str) -> dict[str, JSON]:
    return {"p50": totals[f"{column}_p50"], "p95": totals[f"{column}_p95"], "max": totals[f"{column}_max"]}


def _of_model(group: Row, columns: Mapping[str, str | None]) -> dict[str, JSON]:
    fact = {name: group[name] for name in ("model", "requests", "input_tokens", "output_tokens")}
    if columns["latency"] is not None:
        fact["latency_ms"] = {"rows": group["latency_rows"], "p50": group["latency_p50"], "p95": group["latency_p95"]}
    return fact


def _latency(totals: Row) -> dict[str, JSON]:
    return {
        "rows": totals["latency_rows"],
        "unreadable_rows": totals["requests"] - totals["latency_rows"],
        "sum_ms": totals["latency_sum"],
        "output_tokens": totals["latency_output_tokens"],
        **{f"{rank}_ms": totals[f"latency_{rank}"] for rank in ("p50", "p95", "max")},
    }


def _time_zone(totals: Row) -> str:
    if totals["zoned"] == 0:
        return "unknown"
    return "as given" if totals["zoned"] == totals["requests"] else "mixed"


def _bad(totals: Row) -> str:
    return ", ".join(f"{kind}: {totals[f'bad_{kind}']:,} wrong" for kind in ("time", "input", "output"))


def _name(columns: Columns, role: str) -> str:
    return str(columns[role]).strip()
