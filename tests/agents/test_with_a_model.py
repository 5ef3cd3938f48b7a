"""The supervisor with a language model behind it: the facts are the same, and what the model makes up does not reach the report."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from carrel.client import Client
from carrel_chassis.stack import Stack
from tests.agents.test_workflows import HEADER, ROW, SUFFICIENT, begun, story
from tests.support.openai_server import OpenAiServer, Reply, openai_server
from tests.support.system import System, test_settings


@dataclass
class Place:
    system: System
    server: OpenAiServer


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A system with one model."""
    folder: Path = tmp_path_factory.mktemp("writer")
    async with openai_server() as server:
        models = folder / "models.json"
        models.write_text(
            json.dumps({"models": {"writer": {"address": server.address, "model": "writer", "attempts": 1}}})
        )
        settings = test_settings(folder / "data", service_environment={"CARREL_MODELS_FILE": str(models)})
        async with Stack(settings) as stack:
            await stack.ready(60)
            system = System(stack)
            yield Place(system, server)
            await system.close()


async def test_the_model_writes_and_a_number_that_it_made_up_is_removed(place: Place) -> None:
    person = await place.system.person()
    place.server.will("writer", Reply("There are 374 input tokens. You will save 4,711 USD. Ask again."))
    async with Client(place.system.addresses["gateway"], person.token) as client:
        await client.upload_corpus("trace", f"{HEADER}\n{ROW}\n".encode())
        events, run = await story(client, question="What does it cost?", corpus="trace")
    report = json.loads(run.result_json)
    assert begun(events) == SUFFICIENT
    assert report["narrative"] == {
        "text": "There are 374 input tokens. Ask again.",
        "removed": ["You will save 4,711 USD."],
    }
    assert not [event for event in events if event.type == "partial_result"], (
        "nothing of it is told before it is checked"
    )
    assert "4,711" not in report["markdown"] + report["html"] and "374 input tokens. Ask again." in report["html"]
    (request,) = place.server.of("writer")
    assert "What does it cost?" in json.dumps(request["messages"])


async def test_a_model_that_refuses_leaves_the_report_as_it_is_without_one(place: Place) -> None:
    person = await place.system.person()
    place.server.will("writer", Reply(code=400, error="no"))
    async with Client(place.system.addresses["gateway"], person.token) as client:
        await client.upload_corpus("trace", f"{HEADER}\n{ROW}\n".encode())
        _, run = await story(client, question="What does it cost?", corpus="trace")
    report = json.loads(run.result_json)
    assert report["narrative"] is None and report["cost"]["amount"] > 0 and report["failures"] == []
