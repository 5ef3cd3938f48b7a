"""The agent that decides what a question is about and whether the trace holds what an answer needs."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents import facts, statements, trace
from carrel_agents.assumptions import read_assumptions
from carrel_agents.prices import EXAMPLE_PRICES
from carrel_agents.questions import FALLBACK, RULES, category, classify, named, wanted_columns
from carrel_agents.time_range import find_time_range
from carrel_agents.values import Asked, Entities, HandedOn, ModelFailure, Sufficiency, TriageResult
from carrel_agents.writer import ask

Row = Mapping[str, JSON]

TELLING = 0.5
"""The least confidence with which the intent decides the workflow."""


class Triage(Agent[HandedOn, TriageResult]):
    """Input {"question", "corpus", optionally "columns": which column has what}; result: a TriageResult.

    The data is insufficient when no corpus is named, or when columns that every answer needs are there under other names;
    partial, when the question needs an optional column that is not there.
    """

    name = "triage"
    description = "Decides what a question is about and whether the trace can answer it."

    async def run(self, context: RunContext, input: HandedOn) -> TriageResult:
        await context.emit.thinking("I read the question and look at what the trace holds.")
        if input.corpus is None:
            return _insufficient(input, (_which_corpus(await trace.corpus_names(context)),))
        return await self._look(context, input, input.corpus)

    async def _look(self, context: RunContext, handed: HandedOn, corpus: str) -> TriageResult:
        names = await trace.column_names(context, corpus)
        columns, asked = trace.find_columns(corpus, names, handed.columns)
        if asked:
            return _insufficient(handed, asked)
        time_range, _ = find_time_range(handed.question)
        source = trace.Source(corpus, columns, time_range)
        (totals,) = await trace.query(context, corpus, statements.totals_sql(source))
        facts.require_readable_rows(corpus, totals)
        about, model_failure = await _about(context, handed.question)
        absent = tuple(name for role, name in trace.OPTIONAL.items() if columns[role] is None)
        return _result(
            handed,
            about,
            _sufficiency(handed.question, about, absent),
            models=(*(totals["model_names"] or ()), *_priced(context)),
            columns=columns,
            absent_columns=absent,
            facts=facts.volume(columns, totals),
            limits=facts.limits(totals, read_assumptions(context.settings)),
            model_failure=model_failure,
        )


async def _about(context: RunContext, question: str) -> tuple[Row, ModelFailure | None]:
    """What a question is about: as its words say, or where they do not say enough, as a model says."""
    by_words = classify(question)
    if by_words["confidence"] >= TELLING:
        return by_words, None
    instructions = (
        f"Answer with one word, what the question about a language model's usage is about: {', '.join(RULES)} or none."
    )
    answer = await ask(context, instructions, question)
    if not isinstance(answer, str):
        return by_words, answer
    intent = answer.strip().strip(".").casefold()
    if intent not in RULES:
        return by_words, None
    rule = f"By the language model, the question is about {intent}."
    return {"intent": intent, "confidence": TELLING, "rule": rule}, None


def _sufficiency(question: str, about: Row, absent: tuple[str, ...]) -> Sufficiency:
    if set(wanted_columns(question, about["intent"])) & set(absent):
        return "partial"
    if about["intent"] == FALLBACK or about["confidence"] < TELLING:
        return "unknown"
    return "sufficient"


def _insufficient(handed: HandedOn, asked: tuple[Asked, ...]) -> TriageResult:
    return _result(handed, classify(handed.question), "insufficient", asked=asked)


def _result(
    handed: HandedOn, about: Row, sufficiency: Sufficiency, models: tuple[str, ...] = (), **known: JSON
) -> TriageResult:
    time_range, times = find_time_range(handed.question)
    return TriageResult(
        category=category(handed.question),
        intent=about["intent"],
        confidence=about["confidence"],
        rule=about["rule"],
        entities=Entities(models=named(handed.question, models), times=times),
        workload="usage trace of language models",
        time_range=time_range,
        sufficiency=sufficiency,
        **known,
    )


def _priced(context: RunContext) -> tuple[str, ...]:
    """The models of the price table; a table that cannot be used is for the agent that prices to refuse."""
    prices = context.settings.get("prices") or EXAMPLE_PRICES
    models = prices.get("models") if isinstance(prices, Mapping) else None
    return tuple(name for name in models if isinstance(name, str)) if isinstance(models, Mapping) else ()


def _which_corpus(names: list[str]) -> Asked:
    prompt = "Which of your corpora is the trace that the question is about?"
    if not names:
        prompt = "Which trace is the question about? You have none yet: upload one, then answer with its name."
    return Asked(field="corpus", prompt=prompt, choices=tuple(names))
