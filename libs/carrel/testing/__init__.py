"""For tests of agents: runs one in this process, with tools, models and people that the test plays; no server is needed.

    run = AgentRun(greeter, {"who": "Ada"}, tools={"echo": lambda text: {"text": text}})
    step = await run.advance()                 # to the end of its next step: ("TOOL", "echo")
    await run.crash()                          # what it had in memory is gone; its journal is not
    assert await run.finish() == {"text": "Hello, Ada"}
    assert run.calls == [Call("echo", {"text": "Hello, Ada"})]  # not called again
    assert run.events_of("agent_thinking") == ["I shall greet."]

The rules of replay are those of agent-execution, the same code: `carrel.replay`. What is not here: policies, retries of whole runs, limits
of time, processes of their own.
"""

from carrel.testing.run import AgentRun, Waiting
from carrel.testing.script import Call, Event, ModelReply, Step

__all__ = ["AgentRun", "Call", "Event", "ModelReply", "Step", "Waiting"]
