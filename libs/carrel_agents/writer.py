"""What a model may write into a report: it is given the computed facts, and what it says is held against them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from carrel.agent import JSON, AgentError, RunContext
from carrel_agents.number_check import check

INSTRUCTIONS = (
    "You write a summary of a usage report of language models for the person who asked the question. Use only the facts "
    "given. Write every number exactly as it stands there, in digits; compute nothing. At most three short paragraphs of plain text."
)
LONGEST = 6000
"""In characters; what a model writes beyond it is cut off."""


async def narrative(context: RunContext, report: Mapping[str, JSON]) -> dict[str, JSON] | None:
    """{"text", "removed": the sentences with a number that is not among the facts}; None when no model writes."""
    facts = {
        name: report[name]
        for name in ("facts", "cost", "findings", "recommendations", "next_actions", "missing", "goals")
    }
    prompt = f"The question: {report['question']}\n\nThe facts, as JSON: {json.dumps(facts, ensure_ascii=False)}"
    written = await ask(context, INSTRUCTIONS, prompt)
    if written is None:
        return None
    # Held against the facts alone: a number of the question is nothing that was computed.
    kept, removed = check(_cut(written), facts)
    return {"text": kept, "removed": removed}


def _cut(text: str) -> str:
    """At most LONGEST characters, and no word that was cut in two."""
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(None, 1)[0]


async def ask(context: RunContext, instructions: str, prompt: str) -> str | None:
    """What the first of the operator's models writes; None when there is no model, or when none of them answers."""
    if not context.model.names:
        return None
    try:
        # Quiet: its user sees nothing of it that has not been checked.
        return (await context.model.ask(prompt, instructions=instructions, quiet=True)).text
    except AgentError as error:
        await context.emit.thinking(f"I report without a model: {error.message}")
        return None
