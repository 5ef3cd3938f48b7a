"""The agent that answers a question about a usage trace: it hands the work to others and their results onward."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, AgentError, RunContext
from carrel_agents.values import Failure, HandedOn, HelperResult, TriageResult, checked, read_handed_on
from carrel_agents.workflows import GOALS, TRIAGE, WORKFLOWS, OnFailure, Step

MOST_QUESTIONS = 3
"""How often the user is asked for data before the run is given up."""


class Supervisor(Agent):
    """Input {"question": str, "corpus": str}, and who leaves the corpus out is asked for it; result: the report of `reporting`.

    Triage decides which agents work, and in which order: see `workflows`. What one of them cannot do is missing from the report,
    which says so.
    """

    name = "supervisor"
    description = "Answers a question about a usage trace of language models with a report computed from it."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        handed = read_handed_on(input)
        await context.thinking("I look at what is asked and at the trace, and choose who works on it.")
        await context.progress("triage begins")
        handed = await self._triaged(context, handed)
        triage = handed.need("triage", TriageResult)
        steps = (*([GOALS] if triage.category == "goals" else []), *WORKFLOWS[triage.sufficiency])
        await context.thinking(f"The data is {_WORDS[triage.sufficiency]}: {', then '.join(step.agent for step in steps)}.")
        report: JSON = None
        for done, step in enumerate(steps, 1):
            await context.progress(f"{step.agent} begins", done, len(steps) + 1)
            handed, report = await self._take(context, step, handed)
        await context.progress("the report is ready", len(steps) + 1, len(steps) + 1)
        return report

    async def _triaged(self, context: RunContext, handed: HandedOn) -> HandedOn:
        """With a result of triage that suffices for a workflow; what is missing for that is asked for."""
        for _ in range(MOST_QUESTIONS + 1):
            triage = checked(TriageResult, await context.run_agent(TRIAGE.agent, handed.as_json()))
            if triage.sufficiency != "insufficient":
                return handed.having(triage=triage)
            asking = handed.having(triage=triage).as_json()
            answer = checked(HelperResult, await context.run_agent("data_helper", asking))
            handed = handed.having(corpus=answer.corpus or handed.corpus, columns={**handed.columns, **answer.columns})
        raise AgentError("DATA_INSUFFICIENT", "The data still does not suffice: look at the trace and ask again.")

    async def _take(self, context: RunContext, step: Step, handed: HandedOn) -> tuple[HandedOn, JSON]:
        """One step: what is handed on after it, and its result."""
        lacking = [need for need in step.needs if getattr(handed, need) is None]
        if lacking:
            return _without(handed, step, "SKIPPED", f"It works on the result of {' and '.join(lacking)}."), None
        try:
            result = await context.run_agent(step.agent, handed.as_json())
        except AgentError as error:
            if step.on_failure is OnFailure.STOP:
                raise
            return _without(handed, step, error.reason, error.message), None
        return (handed if step.agent == "reporting" else handed.having(**{step.agent: result})), result


_WORDS = {"sufficient": "sufficient", "partial": "partial", "unknown": "there, and the question is a general one"}


def _without(handed: HandedOn, step: Step, reason: str, message: str) -> HandedOn:
    failure = Failure(agent=step.agent, reason=reason, message=message)
    return handed.having(failures=[*(each.as_json() for each in handed.failures), failure.as_json()])
