"""The agent that answers a question about a usage trace: it hands the work to others and their results onward."""

from __future__ import annotations

from carrel.agent import JSON, Agent, AgentError, RunContext
from carrel_agents.data_helper import DataHelper
from carrel_agents.reporting import Reporting
from carrel_agents.triage import Triage
from carrel_agents.values import HandedOn, Request, TriageResult
from carrel_agents.workflows import GOALS, WORKFLOWS, OnFailure, Step

MOST_QUESTIONS = 3
"""How often the user is asked for data before the run is given up."""

_WORDS = {"sufficient": "sufficient", "partial": "partial", "unknown": "there, and the question is a general one"}


class Supervisor(Agent[Request, dict[str, JSON]]):
    """Input {"question": str, "corpus": str}, and who leaves the corpus out is asked for it; result: the report of `reporting`.

    Triage decides which agents work, and in which order: see `workflows`. What one of them cannot do is missing from the report,
    which says so.
    """

    name = "supervisor"
    description = "Answers a question about a usage trace of language models with a report computed from it."
    version = "3"

    async def run(self, context: RunContext, input: Request) -> dict[str, JSON]:
        await context.emit.thinking("I look at what is asked and at the trace, and choose who works on it.")
        await context.emit.progress("triage begins")
        handed = await self._triaged(context, HandedOn(question=input.question, corpus=input.corpus))
        steps = _steps(handed.need("triage", TriageResult))
        await context.emit.thinking(_plan(handed.need("triage", TriageResult), steps))
        report: dict[str, JSON] = {}
        for done, step in enumerate(steps, 1):
            await context.emit.progress(f"{step.agent.name} begins", done, len(steps) + 1)
            handed, report = await self._take(context, step, handed)
        await context.emit.progress("the report is ready", len(steps) + 1, len(steps) + 1)
        return report

    async def _triaged(self, context: RunContext, handed: HandedOn) -> HandedOn:
        """With a result of triage that suffices for a workflow; what is missing for that is asked for."""
        for _ in range(MOST_QUESTIONS + 1):
            triage = await context.agents.run(Triage, handed.having(triage=None))
            handed = handed.having(triage=triage)
            if triage.sufficiency != "insufficient":
                return handed
            answer = await context.agents.run(DataHelper, handed)
            handed = handed.having(corpus=answer.corpus or handed.corpus, columns={**handed.columns, **answer.columns})
        raise AgentError("DATA_INSUFFICIENT", "The data still does not suffice: look at the trace and ask again.")

    async def _take(self, context: RunContext, step: Step, handed: HandedOn) -> tuple[HandedOn, dict[str, JSON]]:
        """One step: what is handed on after it, and the report if it has written it."""
        name = step.agent.name
        if lacking := [need for need in step.needs if getattr(handed, need) is None]:
            return handed.without(name, "SKIPPED", f"It works on the result of {' and '.join(lacking)}."), {}
        try:
            result = await context.agents.run(step.agent, handed)
        except AgentError as error:
            if step.on_failure is OnFailure.STOP:
                raise
            return handed.without(name, error.reason, error.message), {}
        return (handed, result) if step.agent is Reporting else (handed.having(**{name: result}), {})


def _steps(triage: TriageResult) -> tuple[Step, ...]:
    if triage.category == "administration":
        message = (
            'To change what is stored, start the agent corpus_admin with {"action": ...}; it asks before it destroys.'
        )
        raise AgentError("ADMINISTRATION_ASKED", message)
    return (*([GOALS] if triage.category == "goals" else []), *WORKFLOWS[triage.sufficiency])


def _plan(triage: TriageResult, steps: tuple[Step, ...]) -> str:
    return f"The data is {_WORDS[triage.sufficiency]}: {', then '.join(step.agent.name for step in steps)}."
