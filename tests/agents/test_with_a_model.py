"""The supervisor with a language model behind it: the facts are the same, and what the model makes up does not reach the report."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from carrel.api.events.v1.event_pb2 import Event
from carrel.client import Client, Run
from carrel_chassis.stack import Stack
from tests.agents.test_workflows import HEADER, ROW, SUFFICIENT, begun, story
from tests.support.openai_server import PROMPT_TOKENS, OpenAiServer, Reply, openai_server
from tests.support.system import System, test_settings

ANSWERS = (
    "smaller_model: It saves 93.3 % of the cost.",
    "smaller_model: Compare the answers.\nset_prices: Look at your invoice.",
    "There are 374 input tokens. Ask again.",
)
"""What a model may say to optimization, to actions and to reporting, in this order."""
MADE_UP = "You will save 4,711 USD."
WITHOUT_A_MODEL = (
    "facts",
    "cost",
    "findings",
    "recommendations",
    "savings_together",
    "next_actions",
    "goals",
    "missing",
    "failures",
    "charts",
)
"""The parts of a report to which a model adds nothing; on this trace it has but one change to put in order."""


@dataclass
class Place:
    system: System
    server: OpenAiServer


@dataclass
class Told:
    """A run over a trace of one request."""

    report: dict[str, Any]
    events: list[Event]
    run: Run
    asked: list[str]
    """What the model was asked by it."""


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A system with one model, which has a price and is asked once."""
    folder: Path = tmp_path_factory.mktemp("writer")
    async with openai_server() as server:
        models = folder / "models.json"
        writer = {"address": server.address, "model": "writer", "attempts": 1, "timeout_seconds": 4}
        models.write_text(json.dumps({"models": {"writer": {**writer, "input_usd": 1.0, "output_usd": 2.0}}}))
        settings = test_settings(folder / "data", service_environment={"CARREL_MODELS_FILE": str(models)})
        async with Stack(settings) as stack:
            await stack.ready(60)
            system = System(stack)
            yield Place(system, server)
            await system.close()


async def ask(place: Place, *replies: Reply) -> Told:
    """Has the supervisor asked what it costs; the model meets its agents with these replies, one after the other."""
    person = await place.system.person()
    before = len(place.server.of("writer"))
    place.server.will("writer", *replies)
    async with Client(place.system.addresses["gateway"], person.token) as client:
        await client.upload_corpus("trace", f"{HEADER}\n{ROW}\n".encode())
        events, run = await story(client, question="What does it cost?", corpus="trace")
    assert begun(events) == SUFFICIENT
    asked = [json.dumps(request["messages"]) for request in place.server.of("writer")[before:]]
    return Told(json.loads(run.result_json), events, run, asked)


@pytest_asyncio.fixture(scope="module")
async def good(place: Place) -> Told:
    """A run with a model that answers as it should."""
    return await ask(place, *map(Reply, ANSWERS))


def computed(told: Told) -> dict[str, Any]:
    return {name: told.report[name] for name in WITHOUT_A_MODEL}


def failed(told: Told) -> list[tuple[str, str]]:
    return [(each["agent"], each["reason"]) for each in told.report["model"]["failures"]]


async def test_each_agent_has_the_model_write_over_what_was_computed(good: Told) -> None:
    assert good.report["model"] == {
        "texts": {
            "optimization": {"smaller_model": "It saves 93.3 % of the cost."},
            "actions": {"smaller_model": "Compare the answers.", "set_prices": "Look at your invoice."},
        },
        "removed": [],
        "failures": [],
    }
    assert good.report["narrative"] == {"text": ANSWERS[2], "removed": []}
    for text in ("It saves 93.3 % of the cost.", "Look at your invoice.", ANSWERS[2]):
        assert text in good.report["markdown"] and text in good.report["html"]
    assert len(good.asked) == 3 and all("What does it cost?" in asked for asked in good.asked)


async def test_the_run_records_what_all_agents_took_of_the_model(good: Told) -> None:
    (usage,) = good.run.model_usage
    words = sum(len(answer.split(" ")) for answer in ANSWERS)
    assert (usage.model, usage.calls) == ("writer", 3)
    assert (usage.input_tokens, usage.output_tokens) == (3 * PROMPT_TOKENS, words)
    assert usage.cost_usd == pytest.approx((3 * PROMPT_TOKENS * 1.0 + words * 2.0) / 1e6)


async def test_a_number_that_the_model_made_up_is_in_no_text_and_no_event_on_the_way(place: Place, good: Told) -> None:
    told = await ask(place, *(Reply(f"{answer} {MADE_UP}") for answer in ANSWERS))
    assert told.report["model"] == {**good.report["model"], "removed": [MADE_UP] * 2}
    assert told.report["narrative"] == {"text": ANSWERS[2], "removed": [MADE_UP]}
    assert computed(told) == computed(good)
    assert "4,711" not in told.report["markdown"] + told.report["html"]
    assert not [event for event in told.events if event.type == "partial_result"], (
        "nothing is told before it is checked"
    )
    assert not [event for event in told.events if "4,711" in str(event) and not event.final]


async def test_agents_whose_request_is_refused_report_plainly_and_the_others_write(place: Place, good: Told) -> None:
    told = await ask(place, Reply(code=400, error="no"), Reply(ANSWERS[1]), Reply(code=400, error="no"))
    assert failed(told) == [("optimization", "MODEL_REFUSED"), ("reporting", "MODEL_REFUSED")]
    assert told.report["narrative"] is None and list(told.report["model"]["texts"]) == ["actions"]
    assert computed(told) == computed(good)
    assert "added nothing for optimization, reporting, where the computed facts stand alone" in told.report["markdown"]


async def test_a_model_that_is_lost_in_mid_sentence_is_not_asked_again(place: Place, good: Told) -> None:
    told = await ask(place, Reply(ANSWERS[0], drop_after=2))
    assert len(told.asked) == 1
    assert failed(told) == [(agent, "MODEL_UNAVAILABLE") for agent in ("optimization", "actions", "reporting")]
    assert told.report["model"]["texts"] == {} and told.report["narrative"] is None
    assert computed(told) == computed(good)


async def test_a_model_that_is_too_slow_keeps_its_user_waiting_once(place: Place, good: Told) -> None:
    told = await ask(place, Reply(ANSWERS[0]), Reply(ANSWERS[1], held=asyncio.Event()))
    assert len(told.asked) == 2
    assert failed(told) == [(agent, "MODEL_UNAVAILABLE") for agent in ("actions", "reporting")]
    assert "did not answer within 4 s" in told.report["markdown"]
    assert list(told.report["model"]["texts"]) == ["optimization"] and computed(told) == computed(good)
