"""The agent that deals with what the data lacks: it asks the user for what it cannot know, or says what should be recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.missing import what_is_missing
from carrel_agents.trace import NEEDED
from carrel_agents.values import Asked, HelperResult, TriageResult, read_handed_on


class DataHelper(Agent):
    """Input: the result of `triage`, and what came after it; result: a HelperResult.

    Where the data is insufficient it waits for the user's answer, one for all that is missing: {"corpus": name} or
    {role of a column: its name, ...}. Otherwise it returns what cannot be said, and the header of a trace from which it could.
    """

    name = "data_helper"
    description = "Asks for data that is missing, or says what to record for a better answer."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        handed = read_handed_on(input)
        triage = handed.need("triage", TriageResult)
        if triage.asked:
            await context.thinking("The data does not suffice for an answer, so I ask for what is missing.")
            answer = await context.wait_for_input(prompt(triage.asked), answer_schema(triage.asked))
            corpus = answer.pop("corpus", None)
            return HelperResult(corpus=corpus, columns=answer).as_json()
        await context.thinking("I say what the trace lacks for this question and how it could be recorded.")
        cost = handed.optimization.cost if handed.optimization else None
        missing = what_is_missing(triage, cost, optimized=handed.optimization is not None)
        header = (*NEEDED.values(), *triage.absent_columns)
        return HelperResult(missing=tuple(missing), record=header).as_json()


def prompt(asked: Sequence[Asked]) -> str:
    """All that is missing, as one question."""
    return " ".join(each.prompt for each in asked)


def answer_schema(asked: Sequence[Asked]) -> dict[str, JSON]:
    """The JSON Schema of the answer: exactly what is asked for, each from its choices where there are any."""
    return {
        "type": "object",
        "properties": {
            each.field: {"enum": [*each.choices]} if each.choices else {"type": "string", "minLength": 1} for each in asked
        },
        "required": [each.field for each in asked],
        "additionalProperties": False,
    }
