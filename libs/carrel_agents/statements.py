"""The statements that count a trace. All columns are text: what cannot be read as a time or a count is left out, and counted."""

from __future__ import annotations

from collections.abc import Mapping

from carrel_agents.trace import Source, quoted

MOST_BUCKETS = 60
"""Into how many parts of equal, round length the time of a trace is divided, at most."""

SHOWN_PEAKS = 5
"""How many of the minutes with unusually many requests are named."""

MOST_MODELS = 200
"""How many names of models triage reads, to find them in the question."""

BLANKS = "' ' || chr(9) || chr(13)"
# What can be read. Counts have at most 12 digits, so that sums cannot overflow.
# Years 1970 to 2199, so that minutes since 1970 are never negative and nanoseconds fit; seconds at most to the nanosecond.
TIME = (
    r"(19[7-9][0-9]|2[01][0-9]{2})-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
WHOLE = r"[0-9]{1,12}(\.0+)?"
DECIMAL = r"[0-9]{1,12}(\.[0-9]+)?"
SECOND = 1_000_000_000


def totals_sql(source: Source) -> str:
    """One row: counts, sums, percentiles by nearest rank, first and last time as given, and what could not be read."""
    return f"""{_readable(source)}
SELECT
  (SELECT count(*) FROM parsed) AS total_rows,
  (SELECT count(*) FROM parsed WHERE ns IS NULL) AS bad_time,
  (SELECT count(*) FROM parsed WHERE input IS NULL) AS bad_input,
  (SELECT count(*) FROM parsed WHERE output IS NULL) AS bad_output,
  (SELECT count(*) FROM whole) - count(*) AS outside,
  count(*) AS requests,
  CAST(sum(input) AS BIGINT) AS input_tokens,
  CAST(sum(output) AS BIGINT) AS output_tokens,
  arg_min(time_text, ns) AS first_time,
  arg_max(time_text, ns) AS last_time,
  count(*) FILTER (zoned) AS zoned,
  count(DISTINCT model) AS models,
  (SELECT list(model ORDER BY model) FROM (SELECT DISTINCT model FROM readable WHERE model IS NOT NULL
    ORDER BY model LIMIT {MOST_MODELS})) AS model_names,
  {_percentiles("input")},
  {_percentiles("output")},
  count(latency) AS latency_rows,
  CAST(sum(latency) AS DOUBLE) AS latency_sum,
  CAST(sum(output) FILTER (latency IS NOT NULL) AS BIGINT) AS latency_output_tokens,
  {_percentiles("latency", "DOUBLE")}
FROM readable"""


def load_sql(source: Source) -> str:
    """One row: the minutes that the trace spans, the peak, what comes above the mean rate, both halves, unusual minutes.

    The level is the mean of requests a minute, rounded up; minutes are counted since 1970. Unusual are minutes with more requests
    than the third quartile of those with any, and one and a half times the distance between the quartiles (Tukey's fence).
    """
    return f"""{_readable(source)},
minutes AS (
  SELECT ns // {60 * SECOND} AS minute, count(*) AS n, CAST(sum(input) + sum(output) AS BIGINT) AS tokens
  FROM readable GROUP BY 1),
span AS (
  SELECT min(minute) AS first_minute, max(minute) - min(minute) + 1 AS spanned, CAST(sum(n) AS BIGINT) AS requests,
    {_ranked("n", 25, "BIGINT")} AS q1, {_ranked("n", 75, "BIGINT")} AS q3
  FROM minutes),
level AS (SELECT *, (requests + spanned - 1) // spanned AS per_minute, spanned // 2 AS half FROM span),
unusual AS (SELECT minute, n FROM minutes, level WHERE 2 * n > 2 * q3 + 3 * (q3 - q1))
SELECT
  any_value(first_minute) AS first_minute,
  any_value(spanned) AS minutes,
  count(*) AS active_minutes,
  (SELECT minute FROM minutes ORDER BY n DESC, minute LIMIT 1) AS peak_minute,
  max(n) AS peak_requests,
  any_value(per_minute) AS level,
  count(*) FILTER (n > per_minute) AS minutes_above_level,
  CAST(sum(greatest(n - per_minute, 0)) AS BIGINT) AS requests_above_level,
  any_value(half) AS half_minutes,
  {_sums("first_half_requests", "n", "minute < first_minute + half")},
  {_sums("last_half_requests", "n", "minute >= first_minute + spanned - half")},
  {_sums("first_half_tokens", "tokens", "minute < first_minute + half")},
  {_sums("last_half_tokens", "tokens", "minute >= first_minute + spanned - half")},
  any_value(q1) AS q1,
  any_value(q3) AS q3,
  (SELECT count(*) FROM unusual) AS unusual_minutes,
  (SELECT CAST(coalesce(sum(n), 0) AS BIGINT) FROM unusual) AS unusual_requests,
  (SELECT coalesce(list([minute, n] ORDER BY n DESC, minute), []) FROM
    (SELECT * FROM unusual ORDER BY n DESC, minute LIMIT {SHOWN_PEAKS})) AS unusual_peaks
FROM minutes, level"""


def series_sql(source: Source, first_minute: int, bucket_minutes: int) -> str:
    """A row for each part of the trace's time in which there are requests: its number from 0, requests and tokens."""
    return f"""{_readable(source)}
SELECT (ns // {60 * SECOND} - {first_minute}) // {bucket_minutes} AS bucket, count(*) AS requests,
  CAST(sum(input) AS BIGINT) AS input_tokens, CAST(sum(output) AS BIGINT) AS output_tokens
FROM readable GROUP BY bucket ORDER BY bucket"""


def sizes_sql(source: Source) -> str:
    """A row for each size class of requests: those with no token, with 1, with 2 to 3, 4 to 7, 8 to 15, ... of a kind."""
    kinds = " UNION ALL ".join(f"SELECT '{kind}' AS kind, {kind} AS n FROM readable" for kind in ("input", "output"))
    return f"""{_readable(source)},
sizes AS ({kinds})
SELECT kind, CASE WHEN n = 0 THEN 0 ELSE length(bin(n)) END AS size, count(*) AS requests, CAST(sum(n) AS BIGINT) AS tokens
FROM sizes GROUP BY kind, size ORDER BY kind, size"""


def groups_sql(source: Source, limits: Mapping[str, int]) -> str:
    """A row for each model, or one row where the trace names none: tokens, and those of long, of short and of repeated requests.

    A request is repeated when one like it came at most `repeat_seconds` before: with the same prompt where the trace says which
    that was, else with the same two counts of tokens. Calls are what would be left if all requests of a model that begin within
    the same stretch of `batch_seconds` were sent as one.
    """
    long_input, long_output = limits["input_p95"], limits["output_p95"]
    short = f"input <= {limits['short_input']} AND output <= {limits['short_output']}"
    alike = "model, input, output" if source.columns["prompt"] is None else "model, prompt"
    repeated = f"since <= {limits['repeat_seconds'] * SECOND}"
    return f"""{_readable(source)},
spaced AS (SELECT *, ns - lag(ns) OVER (PARTITION BY {alike} ORDER BY ns) AS since FROM readable)
SELECT
  model,
  count(*) AS requests,
  {_sums("input_tokens", "input")},
  {_sums("output_tokens", "output")},
  count(*) FILTER (input > {long_input}) AS long_prompts,
  {_sums("long_prompt_tokens", "input + output", f"input > {long_input}")},
  {_sums("excess_input", f"input - {long_input}", f"input > {long_input}")},
  count(*) FILTER (output > {long_output}) AS long_answers,
  {_sums("long_answer_output", "output", f"output > {long_output}")},
  {_sums("excess_output", f"output - {long_output}", f"output > {long_output}")},
  count(*) FILTER ({short}) AS short_requests,
  {_sums("short_input", "input", short)},
  {_sums("short_output", "output", short)},
  count(*) FILTER ({repeated}) AS repeated_requests,
  {_sums("repeated_input", "input", repeated)},
  {_sums("repeated_output", "output", repeated)},
  count(DISTINCT ns // {limits["batch_seconds"] * SECOND}) AS calls,
  count(latency) AS latency_rows,
  {_ranked("latency", 50, "DOUBLE")} AS latency_p50,
  {_ranked("latency", 95, "DOUBLE")} AS latency_p95
FROM spaced GROUP BY model ORDER BY input_tokens + output_tokens DESC, model"""


def _readable(source: Source) -> str:
    """The rows of a trace as values (`parsed`, NULL where one cannot be read), those with time and tokens (`whole`), and those of them
    in the time range (`readable`)."""
    columns = source.columns
    return rf"""WITH texts AS (
  SELECT {_text(columns["time"])} AS time_text, {_text(columns["input"])} AS input_text,
    {_text(columns["output"])} AS output_text, {_text(columns["model"])} AS model_text,
    {_text(columns["latency"])} AS latency_text, {_text(columns["prompt"])} AS prompt_text
  FROM {quoted(source.corpus)}),
parsed AS (
  SELECT
    replace(time_text, ' ', 'T') AS time_text,
    CASE WHEN regexp_full_match(time_text, '{TIME}') THEN
      epoch_ns(TRY_CAST(regexp_replace(time_text, '(Z|[+-][0-9]{{2}}:?[0-9]{{2}})$', '') AS TIMESTAMP_NS))
      - 60000000000 * coalesce(
        TRY_CAST(regexp_extract(time_text, '([+-])([0-9]{{2}}):?([0-9]{{2}})$', 1) || '1' AS BIGINT)
        * (60 * TRY_CAST(regexp_extract(time_text, '([+-])([0-9]{{2}}):?([0-9]{{2}})$', 2) AS BIGINT)
          + TRY_CAST(regexp_extract(time_text, '([+-])([0-9]{{2}}):?([0-9]{{2}})$', 3) AS BIGINT)), 0)
    END AS ns,
    regexp_matches(time_text, '(Z|[+-][0-9]{{2}}:?[0-9]{{2}})$') AS zoned,
    CASE WHEN regexp_full_match(input_text, '{WHOLE}') THEN CAST(split_part(input_text, '.', 1) AS BIGINT) END AS input,
    CASE WHEN regexp_full_match(output_text, '{WHOLE}') THEN CAST(split_part(output_text, '.', 1) AS BIGINT) END AS output,
    nullif(model_text, '') AS model,
    CASE WHEN regexp_full_match(latency_text, '{DECIMAL}') THEN CAST(latency_text AS DECIMAL(18, 3)) END AS latency,
    prompt_text AS prompt
  FROM texts),
whole AS (SELECT * FROM parsed WHERE ns IS NOT NULL AND input IS NOT NULL AND output IS NOT NULL),
readable AS (SELECT * FROM whole WHERE {_within(source)})"""


def _within(source: Source) -> str:
    if source.time_range is None:
        return "true"
    begin, end = source.time_range.begin, source.time_range.end
    return f"ns >= epoch_ns(TIMESTAMP_NS '{begin}') AND ns < epoch_ns(TIMESTAMP_NS '{end}')"


def _text(column: str | None) -> str:
    return "CAST(NULL AS VARCHAR)" if column is None else f"trim({quoted(column)}, {BLANKS})"


def _percentiles(column: str, kind: str = "BIGINT") -> str:
    ranks = ", ".join(f"{_ranked(column, percent, kind)} AS {column}_p{percent}" for percent in (50, 95))
    return f"{ranks}, CAST(max({column}) AS {kind}) AS {column}_max"


def _ranked(column: str, percent: int, kind: str) -> str:
    # Nearest rank in whole numbers: a float would take the wrong one where percent × n is just above a whole number.
    values = f"list_sort(list({column}) FILTER ({column} IS NOT NULL))"
    return f"CAST({values}[(count({column}) * {percent} + 99) // 100] AS {kind})"


def _sums(name: str, value: str, where: str = "true") -> str:
    return f"CAST(coalesce(sum({value}) FILTER ({where}), 0) AS BIGINT) AS {name}"
