"""The supervisor on the running system: each variant of its workflow with its events in order, and what it asks of its user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from carrel.api.events.v1.event_pb2 import Event
from carrel.api.runs.v1.run_pb2 import Wait
from carrel.client import Client, Run
from carrel.errors import CarrelClientError
from tests.libs.agents.test_facts import burst
from tests.support.expect import eventually
from tests.support.system import Person, System

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROW = "2023-11-16 18:15:46.68,374,44"
SUFFICIENT = ["triage", "optimization", "data", "actions", "reporting"]
PARTIAL = ["triage", "optimization", "actions", "data_helper", "reporting"]
DEFAULT = ["triage", "data", "optimization", "actions", "reporting"]
QUERIES = {"triage": 2, "data": 3, "optimization": 1}
"""How many tool calls an agent makes."""


@pytest_asyncio.fixture
async def client(system: System, ada: Person) -> AsyncIterator[Client]:
    async with Client(system.addresses["gateway"], ada.token) as client:
        yield client


async def story(client: Client, **input: Any) -> tuple[list[Event], Run]:
    """The events of a run of the supervisor, all of them, and the run."""
    run = await client.start_run("supervisor", input)
    async with asyncio.timeout(60):
        events = [event async for event in client.watch_run(run.run_id)]
    return events, await client.get_run(run.run_id)


def begun(events: list[Event]) -> list[str]:
    """The agents that were begun by the supervisor, in order; asserts that each ended before the next began."""
    life = [
        (event.agent, event.type)
        for event in events
        if event.type in ("agent_started", "agent_completed", "agent_failed") and event.agent != "supervisor"
    ]
    assert [agent for agent, _ in life[::2]] == [agent for agent, _ in life[1::2]]
    assert {kind for _, kind in life[::2]} == {"agent_started"}
    return [agent for agent, _ in life[::2]]


@pytest.mark.parametrize(
    ("question", "agents"),
    [("What does it cost?", SUFFICIENT), ("How slow is it?", PARTIAL), ("Hello", DEFAULT)],
    ids=["sufficient", "partial", "default"],
)
async def test_each_variant_from_end_to_end(client: Client, question: str, agents: list[str]) -> None:
    await client.upload_corpus("trace", f"{HEADER}\n{ROW}\n".encode())
    events, run = await story(client, question=question, corpus="trace")
    report = json.loads(run.result_json)
    assert begun(events) == agents
    assert {*report["agents"], "reporting"} == {*agents} and report["failures"] == []
    assert report["facts"]["requests"] == 1 and report["markdown"].startswith("# Usage report: trace")
    calls = [event.agent for event in events if event.type == "tool_executing"]
    assert calls == [agent for agent in agents for _ in range(QUERIES.get(agent, 0))]
    ends = [event.agent for event in events if event.type == "tool_completed" and event.tool_completed.succeeded]
    assert ends == calls
    assert (events[0].type, events[1].agent, events[1].type) == ("run_queued", "supervisor", "agent_started")
    assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
    assert (events[-1].agent, events[-1].type) == ("supervisor", "agent_completed")


async def test_a_burst_is_found_and_a_goal_is_held_against_it(client: Client) -> None:
    await client.upload_corpus("trace", "\n".join((HEADER, *burst())).encode())
    events, run = await story(client, question="Can we handle 39 requests per minute at the peak?", corpus="trace")
    report = json.loads(run.result_json)
    assert begun(events) == ["triage", "goals_triage", *SUFFICIENT[1:]]
    assert report["facts"]["unusual_minutes"]["highest"] == [{"minute": "2023-11-16T02:30", "requests": 40}]
    assert [(goal["target"], goal["reached"]) for goal in report["goals"]] == [(39.0, False)]
    assert len(report["charts"]) == 5 and report["charts"][0]["svg"] in report["html"]


async def test_insufficient_data_is_asked_for_and_nobody_else_can_answer(
    system: System, client: Client, eve: Person
) -> None:
    await client.upload_corpus("mine", f"when,ContextTokens,answer\n{ROW}\n".encode())
    run = await client.start_run("supervisor", {"question": "What does it cost?"})
    corpus = await _asked(client, run.run_id)
    assert json.loads(corpus.answer_schema_json)["properties"] == {"corpus": {"enum": ["mine"]}}
    async with Client(system.addresses["gateway"], eve.token) as intruder:
        with pytest.raises(CarrelClientError) as refusal:
            await intruder.answer_wait(corpus.wait_id, {"corpus": "mine"})
        assert refusal.value.code is grpc.StatusCode.NOT_FOUND
    await client.answer_wait(corpus.wait_id, {"corpus": "mine"})
    columns = await _asked(client, run.run_id)
    with pytest.raises(CarrelClientError) as wrong:
        await client.answer_wait(columns.wait_id, {"time": "no such column", "output": "answer"})
    assert wrong.value.code is grpc.StatusCode.INVALID_ARGUMENT
    await client.answer_wait(columns.wait_id, {"time": "when", "output": "answer"})
    async with asyncio.timeout(60):
        events = [event async for event in client.watch_run(run.run_id)]
    report = json.loads((await client.get_run(run.run_id)).result_json)
    assert begun_once(events) == [*["triage", "data_helper"] * 2, *SUFFICIENT]
    asked = [event.type for event in events if event.type in ("input_requested", "input_received")]
    assert asked == ["input_requested", "input_received"] * 2
    assert (report["corpus"], report["facts"]["output_tokens"]) == ("mine", 44)


def begun_once(events: list[Event]) -> list[str]:
    """The agents that the supervisor began, where a run that waited was continued: what was told again is not there again."""
    return [event.agent for event in events if event.type == "agent_started" and event.agent != "supervisor"]


async def _asked(client: Client, run_id: str) -> Wait:
    """The one thing that the run waits for."""

    async def look() -> list[Wait]:
        return [wait async for wait in client.list_waits(run_id)]

    (wait,) = await eventually(look, seconds=20)
    return wait


async def test_an_agent_that_fails_leaves_a_report_without_its_part(client: Client) -> None:
    """A trace that names more models than one result may hold cannot be priced; its load can be measured."""
    rows = (f"{ROW},model-{number}" for number in range(10_001))
    await client.upload_corpus("trace", "\n".join((f"{HEADER},Model", *rows)).encode())
    events, run = await story(client, question="What does it cost?", corpus="trace")
    report = json.loads(run.result_json)
    assert [event.agent for event in events if event.type == "agent_failed"] == ["optimization"]
    assert begun(events) == ["triage", "optimization", "data", "reporting"]
    assert [(failure["agent"], failure["reason"]) for failure in report["failures"]] == [
        ("optimization", "TRACE_TOO_MANY_MODELS"),
        ("actions", "SKIPPED"),
    ]
    assert report["facts"]["peak_minute"]["requests"] == 10_001 and report["cost"] is None
    assert "This report is incomplete" in report["markdown"]
