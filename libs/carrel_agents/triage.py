"""The agent that decides what a question is about and whether the trace holds what an answer needs."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.questions import classify, read_request
from carrel_agents.trace import OPTIONAL, find_columns, query, select_no_rows


class Triage(Agent):
    """Input {"question", "corpus"}; result {intent, confidence, rule, workload, sufficiency, columns, absent_columns}.

    `sufficiency` is "full", or "partial" when an optional column is absent; a trace without a needed column is refused.
    """

    name = "triage"
    description = "Decides what a question is about and whether the trace can answer it."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        request = read_request(input)
        await context.thinking("I read the question and look at the columns of the trace.")
        result = await query(context, request["corpus"], select_no_rows(request["corpus"]))
        columns = find_columns(request["corpus"], result["columns"])
        absent = [name for role, name in OPTIONAL.items() if columns[role] is None]
        return {
            **classify(request["question"]),
            "workload": "usage trace of language models",
            "sufficiency": "partial" if absent else "full",
            "columns": columns,
            "absent_columns": absent,
        }
