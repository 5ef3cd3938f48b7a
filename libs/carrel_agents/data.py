"""The agent that computes the facts of a trace, with three SQL statements."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, AgentError, RunContext
from carrel_agents import facts, trace
from carrel_agents.assumptions import read_assumptions
from carrel_agents.questions import read_corpus, read_results


class Data(Agent):
    """Input {"corpus", optionally "triage" with its columns}; result {"facts": {...}, "groups": [a dict per model]}."""

    name = "data"
    description = "Computes the facts of a usage trace."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        corpus = read_corpus(input)
        assumptions = read_assumptions(context.settings)
        await context.thinking("I count the requests and tokens of the trace, and its load by minute and by model.")
        columns = await self._columns(context, corpus, input)
        await context.progress("counting requests and tokens", 0, 3)
        totals = await self._rows(context, corpus, trace.totals_sql(corpus, columns))
        facts.require_readable_rows(corpus, totals[0])
        await context.progress("measuring the load by minute", 1, 3)
        load = await self._rows(context, corpus, trace.load_sql(corpus, columns))
        await context.progress("grouping by model", 2, 3)
        limits = facts.limits(totals[0], assumptions)
        groups = await self._rows(context, corpus, trace.groups_sql(corpus, columns, limits))
        return {"facts": facts.assemble(columns, totals[0], load[0], groups, limits), "groups": groups}

    async def _columns(self, context: RunContext, corpus: str, input: Mapping[str, JSON]) -> trace.Columns:
        if "triage" in input:
            (triage,) = read_results(input, "triage")
            columns: trace.Columns = triage["columns"]
            return columns
        result = await trace.query(context, corpus, trace.select_no_rows(corpus))
        return trace.find_columns(corpus, result["columns"])

    async def _rows(self, context: RunContext, corpus: str, sql: str) -> list[dict[str, JSON]]:
        result = await trace.query(context, corpus, sql)
        if result["truncated"]:
            raise AgentError(
                "TRACE_TOO_MANY_MODELS",
                f'The trace "{corpus}" names more models than one result may hold: check what its Model column holds.',
            )
        return [dict(zip(result["columns"], row, strict=True)) for row in result["rows"]]
