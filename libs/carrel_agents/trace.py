"""A usage trace as SQL sees it: its columns by their names, and the statements that count it. All columns are text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel.agent import JSON, AgentError, RunContext, ToolError

Columns = dict[str, str | None]
"""Which column of the corpus plays which role: time, input, output, and model and latency where there are such."""

NEEDED = {"time": "TIMESTAMP", "input": "ContextTokens", "output": "GeneratedTokens"}
OPTIONAL = {"model": "Model", "latency": "LatencyMs"}

BLANKS = "' ' || chr(9) || chr(13)"
# What can be read. Counts have at most 12 digits, so that sums cannot overflow.
# Years 1970 to 2199, so that minutes since 1970 are never negative and nanoseconds fit; seconds at most to the nanosecond.
TIME = (
    r"(19[7-9][0-9]|2[01][0-9]{2})-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
WHOLE = r"[0-9]{1,12}(\.0+)?"
DECIMAL = r"[0-9]{1,12}(\.[0-9]+)?"


async def query(context: RunContext, corpus: str, sql: str) -> dict[str, JSON]:
    """Calls the tool sql_query; a corpus that is not there becomes an AgentError that says what to do."""
    try:
        result: dict[str, JSON] = await context.call_tool("sql_query", sql=sql)
    except ToolError as error:
        if error.reason != "CORPUS_NOT_FOUND":
            raise
        message = f'You have no corpus "{corpus}": check its name in the list of your corpora, or upload it first.'
        raise AgentError("CORPUS_NOT_FOUND", message) from error
    return result


def find_columns(corpus: str, names: Sequence[str]) -> Columns:
    """The columns of a trace, found without regard to case and to surrounding blanks.

    Raises AgentError TRACE_COLUMNS_MISSING, or TRACE_COLUMNS_AMBIGUOUS where two names are the same but for that.
    """
    found: Columns = {role: _one(corpus, wanted, names) for role, wanted in {**NEEDED, **OPTIONAL}.items()}
    missing = [wanted for role, wanted in NEEDED.items() if found[role] is None]
    if missing:
        raise AgentError(
            "TRACE_COLUMNS_MISSING",
            f'The corpus "{corpus}" lacks {_listed(missing)}: a trace needs the columns {_listed(list(NEEDED.values()))}, '
            f"and this one has {_listed(names)}.",
        )
    return found


def select_no_rows(corpus: str) -> str:
    """The statement that shows the columns of a corpus and none of its rows."""
    return f"SELECT * FROM {quoted(corpus)} LIMIT 0"


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def totals_sql(corpus: str, columns: Columns) -> str:
    """One row: counts, sums, percentiles by nearest rank, first and last time as given, and what could not be read."""
    return f"""{_readable(corpus, columns)}
SELECT
  (SELECT count(*) FROM parsed) AS total_rows,
  (SELECT count(*) FROM parsed WHERE ns IS NULL) AS bad_time,
  (SELECT count(*) FROM parsed WHERE input IS NULL) AS bad_input,
  (SELECT count(*) FROM parsed WHERE output IS NULL) AS bad_output,
  count(*) AS requests,
  CAST(sum(input) AS BIGINT) AS input_tokens,
  CAST(sum(output) AS BIGINT) AS output_tokens,
  arg_min(time_text, ns) AS first_time,
  arg_max(time_text, ns) AS last_time,
  count(*) FILTER (zoned) AS zoned,
  {_percentiles("input")},
  {_percentiles("output")},
  count(latency) AS latency_rows,
  CAST(sum(latency) AS DOUBLE) AS latency_sum,
  CAST(sum(output) FILTER (latency IS NOT NULL) AS BIGINT) AS latency_output_tokens,
  {_percentiles("latency", "DOUBLE")}
FROM readable"""


def load_sql(corpus: str, columns: Columns) -> str:
    """One row: the minutes that the trace spans, the peak, and how many requests come above the mean rate.

    The level is the mean of requests a minute, rounded up; minutes are counted since 1970.
    """
    return f"""{_readable(corpus, columns)},
minutes AS (SELECT ns // 60000000000 AS minute, count(*) AS n FROM readable GROUP BY 1),
span AS (SELECT max(minute) - min(minute) + 1 AS spanned, CAST(sum(n) AS BIGINT) AS requests FROM minutes),
level AS (SELECT spanned, (requests + spanned - 1) // spanned AS per_minute FROM span)
SELECT
  any_value(spanned) AS minutes,
  count(*) AS active_minutes,
  (SELECT minute FROM minutes ORDER BY n DESC, minute LIMIT 1) AS peak_minute,
  max(n) AS peak_requests,
  any_value(per_minute) AS level,
  count(*) FILTER (n > per_minute) AS minutes_above_level,
  CAST(sum(greatest(n - per_minute, 0)) AS BIGINT) AS requests_above_level
FROM minutes, level"""


def groups_sql(corpus: str, columns: Columns, limits: Mapping[str, int]) -> str:
    """A row for each model, or one row where the trace names none: tokens, and those of long and of short requests."""
    long_input, long_output = limits["input_p95"], limits["output_p95"]
    short = f"input <= {limits['short_input']} AND output <= {limits['short_output']}"
    return f"""{_readable(corpus, columns)}
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
  count(latency) AS latency_rows,
  {_ranked("latency", 50, "DOUBLE")} AS latency_p50,
  {_ranked("latency", 95, "DOUBLE")} AS latency_p95
FROM readable GROUP BY model ORDER BY input_tokens + output_tokens DESC, model"""


def _readable(corpus: str, columns: Columns) -> str:
    """The rows of a trace as values (`parsed`, NULL where one cannot be read), and those with time and tokens."""
    return rf"""WITH texts AS (
  SELECT {_text(columns["time"])} AS time_text, {_text(columns["input"])} AS input_text,
    {_text(columns["output"])} AS output_text, {_text(columns["model"])} AS model_text,
    {_text(columns["latency"])} AS latency_text
  FROM {quoted(corpus)}),
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
    CASE WHEN regexp_full_match(latency_text, '{DECIMAL}') THEN CAST(latency_text AS DECIMAL(18, 3)) END AS latency
  FROM texts),
readable AS (SELECT * FROM parsed WHERE ns IS NOT NULL AND input IS NOT NULL AND output IS NOT NULL)"""


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


def _one(corpus: str, wanted: str, names: Sequence[str]) -> str | None:
    same = [name for name in names if _plain(name) == _plain(wanted)]
    if len(same) > 1:
        raise AgentError(
            "TRACE_COLUMNS_AMBIGUOUS",
            f'The corpus "{corpus}" has {len(same)} columns that could be {wanted}: keep one of {_listed(same)}.',
        )
    return same[0] if same else None


def _plain(name: str) -> str:
    # A byte order mark is what some spreadsheets write before the first name.
    return name.lstrip("\ufeff").strip().casefold()


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(name if len(name) <= 60 else name[:60] + "…" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"
