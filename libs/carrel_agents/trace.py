"""A usage trace as SQL sees it: which of its columns is what, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from carrel.agent import JSON, AgentError, RunContext, ToolError
from carrel_agents.values import Asked, HandedOn, TimeRange

Columns = dict[str, str | None]
"""Which column of the corpus plays which role: time, input, output, and those of OPTIONAL where there are such."""

NEEDED = {"time": "TIMESTAMP", "input": "ContextTokens", "output": "GeneratedTokens"}
OPTIONAL = {"model": "Model", "latency": "LatencyMs", "prompt": "PromptHash"}
MEANINGS = {
    "time": "the time of a request",
    "input": "the number of its input tokens",
    "output": "the number of its output tokens",
}


class Source(NamedTuple):
    """What a statement reads: the rows of a corpus, all or those of a time range."""

    corpus: str
    columns: Mapping[str, str | None]
    time_range: TimeRange | None = None


def source_of(handed: HandedOn) -> Source:
    """The rows that triage has found the question to be about."""
    triage = handed.triage
    assert triage is not None and handed.corpus is not None
    return Source(handed.corpus, triage.columns, triage.time_range)


async def query(context: RunContext, corpus: str, sql: str) -> list[dict[str, JSON]]:
    """The rows that sql_query returns; AgentError CORPUS_NOT_FOUND for a corpus that is not there, TRACE_TOO_MANY_MODELS."""
    result = await _call(context, corpus, sql)
    if result["truncated"]:
        raise AgentError(
            "TRACE_TOO_MANY_MODELS",
            f'The trace "{corpus}" names more models than one result may hold: check what its Model column holds.',
        )
    return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]


async def column_names(context: RunContext, corpus: str) -> list[str]:
    """The columns of a corpus, in their order."""
    names: list[str] = (await _call(context, corpus, f"SELECT * FROM {quoted(corpus)} LIMIT 0"))["columns"]
    return names


async def corpus_names(context: RunContext) -> list[str]:
    """The corpora of the user."""
    result = await context.tools.call("sql_query", sql="SHOW TABLES")
    return [row[0] for row in result["rows"]]


async def _call(context: RunContext, corpus: str, sql: str) -> dict[str, JSON]:
    try:
        result: dict[str, JSON] = await context.tools.call("sql_query", sql=sql)
    except ToolError as error:
        if error.reason != "CORPUS_NOT_FOUND":
            raise
        message = f'You have no corpus "{corpus}": check its name in the list of your corpora, or upload it first.'
        raise AgentError("CORPUS_NOT_FOUND", message) from error
    return result


def find_columns(
    corpus: str, names: Sequence[str], given: Mapping[str, str] | None = None
) -> tuple[Columns, tuple[Asked, ...]]:
    """The columns of a trace, found without regard to case and to surrounding blanks, and what only the user can say.

    `given` are the columns that the user has named. Raises AgentError TRACE_COLUMNS_AMBIGUOUS where two names are the same
    but for their case, and TRACE_COLUMNS_MISSING where there are not enough columns to choose from.
    """
    found: Columns = {role: _one(corpus, wanted, names) for role, wanted in {**NEEDED, **OPTIONAL}.items()}
    found |= {role: name for role, name in (given or {}).items() if role in NEEDED and name in names}
    missing = [role for role in NEEDED if found[role] is None]
    free = tuple(name for name in names if name not in found.values())
    if len(free) < len(missing):
        raise AgentError(
            "TRACE_COLUMNS_MISSING",
            f'The corpus "{corpus}" lacks {_listed([NEEDED[role] for role in missing])}: a trace needs the columns '
            f"{_listed(list(NEEDED.values()))}, and this one has {_listed(names)}.",
        )
    return found, tuple(_asked(corpus, role, free) for role in missing)


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _asked(corpus: str, role: str, free: tuple[str, ...]) -> Asked:
    prompt = f'Which column of "{corpus}" has {MEANINGS[role]}? It has none named {NEEDED[role]}.'
    return Asked(field=role, prompt=prompt, choices=free)


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
