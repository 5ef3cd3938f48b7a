"""The supervisor on the recorded trace, through the running system: its facts are those that plain Python computes, also after a kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from carrel.client import Client
from carrel_chassis.stack import Stack
from tests.agents.test_workflows import story
from tests.libs.agents.independent import facts_of
from tests.libs.agents.test_facts import breaking
from tests.support.system import REAL_TRACE, Person, System, test_settings

pytestmark = pytest.mark.skipif(not REAL_TRACE.exists(), reason="the recorded trace is not here")

Lines = list[str]


def _shuffled(lines: Lines) -> Lines:
    header, *rows = lines
    Random(11).shuffle(rows)
    return [header, *rows]


def _broken(lines: Lines) -> Lines:
    """With a fifth of the rows made unreadable."""
    random = Random(12)
    header, *rows = lines
    broken = set(random.sample(range(len(rows)), len(rows) // 5))
    return [header, *(breaking(row, random) if place in broken else row for place, row in enumerate(rows))]


@pytest.mark.parametrize(
    ("change", "broken_rows"),
    [(lambda lines: lines, 0), (lambda lines: lines[:1_001], 0), (_shuffled, 0), (_broken, 3_873)],
    ids=["whole", "first thousand rows", "shuffled", "a fifth broken"],
)
async def test_the_facts_are_those_of_an_independent_computation(
    system: System, ada: Person, tmp_path: Path, change: Callable[[Lines], Lines], broken_rows: int
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(change(REAL_TRACE.read_text().splitlines())) + "\n")
    async with Client(system.addresses["gateway"], ada.token) as client:
        await client.upload_corpus("trace", path)
        _, run = await story(client, question="What does it cost?", corpus="trace")
    report = json.loads(run.result_json)
    expected = facts_of(path)
    assert {name: report["facts"][name] for name in expected} == expected
    assert report["facts"]["broken_rows"] == broken_rows
    assert ("could not be read and are left out" in report["markdown"]) == bool(broken_rows)


@pytest_asyncio.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Its execution process is killed."""
    environment = {"CARREL_LEASE_SECONDS": "1.5", "CARREL_POLL_SECONDS": "0.2"}
    folder = tmp_path_factory.mktemp("fragile")
    async with Stack(test_settings(folder / "data", service_environment=environment)) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def test_a_worker_that_is_killed_at_any_agent_changes_nothing_in_the_report(fragile: System) -> None:
    person = await fragile.person()
    async with Client(fragile.addresses["gateway"], person.token) as client:
        await client.upload_corpus("trace", REAL_TRACE)
        unharmed, whole = await story(client, question="What does it cost?", corpus="trace")
        for agent in ("triage", "optimization", "data"):
            harmed, run = await _killed_at(fragile, client, agent)
            assert (run.attempt, json.loads(run.result_json)) == (2, json.loads(whole.result_json))
            assert [(event.agent, event.type) for event in harmed] == [(event.agent, event.type) for event in unharmed]


async def _killed_at(system: System, client: Client, agent: str) -> tuple[list[Any], Any]:
    """A run whose worker dies while a tool of this agent works."""
    run = await client.start_run("supervisor", {"question": "What does it cost?", "corpus": "trace"})
    events, killed = [], False
    async with asyncio.timeout(60):
        async for event in client.watch_run(run.run_id):
            events.append(event)
            if not killed and (event.agent, event.type) == (agent, "tool_executing"):
                system.stack.kill("execution")
                killed = True
    await system.stack.ready(30)
    return events, await client.get_run(run.run_id)
