"""The agent that deals with what the data lacks: it asks the user for what it cannot know, or says what should be recorded."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.missing import what_is_missing
from carrel_agents.trace import NEEDED
from carrel_agents.values import Asked, HandedOn, HelperResult, TriageResult


class DataHelper(Agent[HandedOn, HelperResult]):
    """Input: the result of `triage`, and what came after it; result: a HelperResult.

    Where the data is insufficient it waits for the user's answer, one for all that is missing: {"corpus": name} or
    {role of a column: its name, ...}. Otherwise it returns what cannot be said, and the header of a trace from which it could.
    """

    name = "data_helper"
    description = "Asks for data that is missing, or says what to record for a better answer."

    async def run(self, context: RunContext, input: HandedOn) -> HelperResult:
        triage = input.need("triage", TriageResult)
        if triage.asked:
            await context.emit.thinking("The data does not suffice for an answer, so I ask for what is missing.")
            answer = await context.wait_for.input(prompt(triage.asked), answer_schema(triage.asked))
            corpus = answer.pop("corpus", None)
            return HelperResult(corpus=corpus, columns=answer)
        await context.emit.thinking("I say what the trace lacks for this question and how it could be recorded.")
        cost = input.optimization.cost if input.optimization else None
        missing = what_is_missing(triage, cost, optimized=input.optimization is not None)
        header = (*NEEDED.values(), *triage.absent_columns)
        return HelperResult(missing=tuple(missing), record=header)


def prompt(asked: Sequence[Asked]) -> str:
    """All that is missing, as one question."""
    return " ".join(each.prompt for each in asked)


def answer_schema(asked: Sequence[Asked]) -> dict[str, JSON]:
    """The JSON Schema of the answer: exactly what is asked for, each from its choices where there are any."""
    return {
        "type": "object",
        "properties": {
            each.field: {"enum": [*each.choices]} if each.choices else {"type": "string", "minLength": 1}
            for each in asked
        },
        "required": [each.field for each in asked],
        "additionalProperties": False,
    }
