"""The agent that looks after the user's corpora. What destroys something is done only with the user's consent to that very call."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, AgentError, RunContext

ACTIONS = ("list", "create", "import", "update", "delete", "export", "validate")


class CorpusAdmin(Agent):
    """Input: what the tool corpus_admin takes, {"action": one of ACTIONS, ...}; result {"action", "result"}.

    It needs the scope that the tool needs. For update and delete the run waits until its user has consented, or refused: then it fails
    with APPROVAL_DENIED. Before that it reads the corpus, so that nobody is asked about one that is not there.
    """

    name = "corpus_admin"
    description = (
        "Creates, renames, deletes, imports, exports, validates and lists your corpora; asks before it destroys."
    )

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        action = input.get("action")
        if action not in ACTIONS:
            raise AgentError("INVALID_INPUT", f'Say what to do in "action": one of {", ".join(ACTIONS)}.')
        await context.emit.thinking(f"I shall {action} {input.get('name', 'your corpora')}.")
        if action in ("update", "delete"):
            await context.emit.progress("looking at what would be lost", 0, 2)
            await context.tools.call("corpus_admin", action="validate", name=input.get("name", ""))
            await context.emit.progress("asking for consent", 1, 2)
        return {"action": action, "result": await context.tools.call("corpus_admin", **input)}
