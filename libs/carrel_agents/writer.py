"""What a model may add to a result: it is given the computed facts, and what it says is held against them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping

from carrel.agent import JSON, AgentError, RunContext
from carrel_agents.number_check import check
from carrel_agents.values import HandedOn, ModelFailure, Written

RULES = "Use only the facts given. Write every number exactly as it stands there, in digits; compute nothing."
SUMMARY = (
    "You write a summary of a usage report of language models for the person who asked the question. "
    f"{RULES} At most three short paragraphs of plain text."
)
LONGEST = 6000
"""In characters; what a model writes beyond it is cut off."""

_NAMED = re.compile(r"\W*(?:\d+[.)]\W*)?(\w+)\W*:[\s*]*(\S.*)")
"""A line `name: text`; models like to number and to embolden such lines."""


async def narrative(
    context: RunContext, handed: HandedOn, report: Mapping[str, JSON]
) -> dict[str, JSON] | ModelFailure | None:
    """{"text", "removed": the sentences with a number that is not among the facts}; None when there is no model."""
    facts = {
        name: report[name]
        for name in ("facts", "cost", "findings", "recommendations", "next_actions", "missing", "goals")
    }
    written = await ask(context, SUMMARY, _prompt(handed, facts), silent=handed.silent_model)
    if not isinstance(written, str):
        return written
    # Held against the facts alone: a number of the question is nothing that was computed.
    kept, removed = check(_cut(written), facts)
    return {"text": kept, "removed": removed}


async def explain(
    context: RunContext, handed: HandedOn, task: str, facts: Mapping[str, JSON], names: Collection[str]
) -> Written | None:
    """A text of the model about each of the names, which are those of things among the facts; None when there is no model."""
    if not names:
        return None
    instructions = (
        f"{task} {RULES} Answer with one line of plain text for each of these names, `name: text`: {', '.join(names)}."
    )
    answer = await ask(context, instructions, _prompt(handed, facts), silent=handed.silent_model)
    if answer is None:
        return None
    return Written(failure=answer) if isinstance(answer, ModelFailure) else _written(_cut(answer), facts, names)


async def ask(
    context: RunContext, instructions: str, prompt: str, *, silent: ModelFailure | None = None
) -> str | ModelFailure | None:
    """What the first of the operator's models writes; None when there is no model. One that is known to be silent is not asked."""
    if not context.model.names:
        return None
    if silent is not None:
        return silent
    try:
        # Quiet: its user sees nothing of it that has not been checked.
        return (await context.model.ask(prompt, instructions=instructions, quiet=True)).text
    except AgentError as error:
        await context.emit.thinking(f"I go on without a model: {error.message}")
        return ModelFailure(reason=error.reason, message=error.message)


def _prompt(handed: HandedOn, facts: Mapping[str, JSON]) -> str:
    return f"The question: {handed.question}\n\nThe facts, as JSON: {json.dumps(facts, ensure_ascii=False)}"


def _cut(text: str) -> str:
    """At most LONGEST characters, and no word that was cut in two."""
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(None, 1)[0]


def _written(answer: str, facts: Mapping[str, JSON], names: Collection[str]) -> Written:
    texts: dict[str, str] = {}
    removed: list[str] = []
    for name, text in _named_lines(answer):
        if name in names and name not in texts:
            texts[name], wrong = check(text, facts)
            removed += wrong
    if not texts:
        message = "The model's answer was not in the form that it was asked for."
        return Written(failure=ModelFailure(reason="MODEL_ANSWER_UNUSABLE", message=message))
    return Written(texts=texts, removed=tuple(removed))


def _named_lines(answer: str) -> Iterator[tuple[str, str]]:
    for line in answer.splitlines():
        if match := _NAMED.fullmatch(line.strip()):
            yield match[1], match[2]
