"""The agent that computes how the load of a trace lies in time, and its tokens over requests, with three SQL statements."""

from __future__ import annotations

from carrel.agent import Agent, RunContext
from carrel_agents import facts, statements, trace
from carrel_agents.findings import find_in_time
from carrel_agents.scales import round_minutes
from carrel_agents.values import DataResult, HandedOn, TriageResult


class Data(Agent[HandedOn, DataResult]):
    """Input: the request and the result of `triage`; result: a DataResult."""

    name = "data"
    description = "Computes the load of a usage trace over time, its trend and its unusual minutes."

    async def run(self, context: RunContext, input: HandedOn) -> DataResult:
        triage = input.need("triage", TriageResult)
        source = trace.source_of(input)
        await context.emit.thinking(
            "I measure the load by minute, how it changes, and how tokens lie over the requests."
        )
        await context.emit.progress("measuring the load by minute", 0, 3)
        (load,) = await trace.query(context, source.corpus, statements.load_sql(source))
        bucket_minutes = round_minutes(load["minutes"], statements.MOST_BUCKETS)
        await context.emit.progress("following the load over time", 1, 3)
        series = await trace.query(
            context, source.corpus, statements.series_sql(source, load["first_minute"], bucket_minutes)
        )
        await context.emit.progress("sorting requests by size", 2, 3)
        sizes = await trace.query(context, source.corpus, statements.sizes_sql(source))
        found = facts.in_time(load, series, sizes, bucket_minutes)
        findings = find_in_time({**triage.facts, **found})
        return DataResult(facts=found, findings=tuple(findings))
