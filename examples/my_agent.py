"""An agent of your own, which uses a tool of your own. agent-execution loads it; my_tool.py says how to start both.

A new instance is made for each run. If the worker dies, the agent runs again from the top on another one, and what was finished
returns what it returned: keep to what the context offers, and a run survives.
"""

from collections.abc import Mapping

from carrel.agent import JSON, Agent, AgentError, RunContext


class Poet(Agent):
    """Input {"subject"}, which it asks for when it is absent; result {"poem", "words"}."""

    name = "poet"
    description = "Writes three lines about a subject and counts their words."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        # Nothing is held while its user thinks about it: the run may wait for days.
        subject = input.get("subject") or await context.wait_for.input("What shall it be about?", {"type": "string"})
        if not isinstance(subject, str) or not subject:
            raise AgentError("SUBJECT_MISSING", 'The subject is no text; give one: {"subject": "the sea"}.')
        await context.emit.thinking(f"I think of {subject}.")
        lines = [f"O {subject},", f"you are {subject},", f"and nothing else is {subject}."]
        for number, _ in enumerate(lines, 1):
            await context.emit.progress("lines written", done=number, total=len(lines))
        counted = await context.tools.call("count_words", text=" ".join(lines))
        return {"poem": lines, "words": counted["words"]}


AGENTS = (Poet,)
