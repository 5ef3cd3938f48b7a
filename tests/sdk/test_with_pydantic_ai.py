"""A pydantic-ai agent within a run: its tools, its model calls, and what a crash leaves of them."""

from __future__ import annotations

import pytest
from examples.pydantic_ai_agent import repeating

from carrel.agent import ToolError
from carrel.testing import AgentRun, Call, ModelReply, Step

REPLIES = [ModelReply(calls=[("echo", {"text": "hello"})]), "It said hello."]


def run(**tools: object) -> AgentRun:
    return AgentRun(
        repeating,
        {"text": "Say hello."},
        tools={"echo": lambda text: {"text": text}, **tools},
        models={"small": list(REPLIES)},
    )  # type: ignore[dict-item]


async def test_its_tools_and_model_calls_are_steps_of_the_run() -> None:
    it = run()
    steps = [await it.advance() for _ in range(3)]
    assert steps == [Step("MODEL", "small", "1"), Step("TOOL", "echo", "2"), Step("MODEL", "small", "3")]
    assert await it.finish() == "It said hello."
    assert it.calls == [Call("echo", {"text": "hello"})]
    assert it.events_of("partial_result") == ["It said hello."]


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_after_a_crash_it_goes_on_and_pays_for_nothing_twice(steps: int) -> None:
    it = run()
    for _ in range(steps):
        await it.advance()
    await it.crash()
    assert await it.finish() == "It said hello."
    assert (len(it.calls), len(it.model_requests)) == (1, 2)


async def test_a_tool_that_fails_is_told_to_the_model() -> None:
    def broken(text: str) -> None:
        raise ToolError("BROKEN", "It is broken.")

    it = run(echo=broken)
    assert await it.finish() == "It said hello."
    assert "BROKEN: It is broken." in str(it.model_requests[1][1])
