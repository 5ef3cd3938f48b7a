"""Runs that ask language models: what their users see, what is kept, what a killed worker costs, and who else learns of it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from carrel import Client
from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel.errors import NotFound
from carrel_chassis.stack import Stack
from tests.execution.test_runs import FAILED, SUCCEEDED, Runs, types
from tests.support.expect import eventually
from tests.support.journals import Journals
from tests.support.openai_server import PROMPT_TOKENS, OpenAiServer, Reply, openai_server
from tests.support.system import Person, System, test_settings

KEY = "sk-test-0123456789abcdef"


@dataclass
class Place:
    system: System
    server: OpenAiServer


@pytest_asyncio.fixture(scope="module")
async def place(tmp_path_factory) -> AsyncIterator[Place]:
    """A system with two models; one of them costs nothing that anybody knows of."""
    folder: Path = tmp_path_factory.mktemp("models")
    async with openai_server() as server:
        key, models = folder / "key", folder / "models.json"
        key.write_text(KEY + "\n")
        small = {"key_file": str(key), "input_usd": 1.0, "output_usd": 2.0}
        found = {name: {"address": server.address, "model": name} for name in ("small", "unpriced")}
        found["small"] |= small
        models.write_text(json.dumps({"models": found}))
        environment = {
            "CARREL_MODELS_FILE": str(models),
            "CARREL_AGENT_MODULES": "tests.support.agents_with_models",
            "CARREL_LEASE_SECONDS": "1.5",
            "CARREL_POLL_SECONDS": "0.2",
        }
        async with Stack(test_settings(folder / "data", service_environment=environment)) as stack:
            await stack.ready(60)
            system = System(stack)
            yield Place(system, server)
            await system.close()


async def test_the_user_sees_the_text_grow_and_the_whole_is_kept(place: Place) -> None:
    person = await place.system.person()
    held = asyncio.Event()
    place.server.will("small", Reply("One two three.", word_seconds=0.1, held=held))
    deltas = []
    async with Client(place.system.addresses["gateway"], person.token) as client:
        run = await client.start_run("writing", {"text": "Count."})
        async for event in client.watch_run(run.run_id):
            if event.partial_result.delta:
                deltas.append(event.partial_result.delta)
                held.set()  # the last word comes after the first was seen
    assert deltas and "One two three.".startswith(deltas[0])
    runs = Runs(place.system, person)
    kept = [event for event in await runs.events(run.run_id) if event.type == "partial_result"]
    assert [event.partial_result.text for event in kept] == ["One two three."]


async def test_a_resumed_run_does_not_pay_twice(place: Place) -> None:
    person = await place.system.person()
    runs, before = Runs(place.system, person), len(place.server.requests)
    run = await runs.start("writing", {"text": "Only once.", "then_sleep": 2.0})

    async def answered() -> bool:
        return "tool_executing" in types(await runs.events(run.run_id))

    await eventually(answered)
    place.system.stack.kill("execution", signal.SIGKILL)
    await place.system.stack.ready(30)
    ended = await runs.until(run.run_id, SUCCEEDED)
    assert ended.attempt == 2
    assert len(place.server.requests) == before + 1
    [usage] = ended.model_usage
    assert (usage.model, usage.calls, usage.input_tokens, usage.output_tokens) == ("small", 1, PROMPT_TOKENS, 2)
    assert abs(usage.cost_usd - (PROMPT_TOKENS * 1.0 + 2 * 2.0) / 1e6) < 1e-12
    texts = [event for event in await runs.events(run.run_id) if event.type == "partial_result"]
    assert len(texts) == 1
    [step] = [each for each in await Journals(place.system, person).steps(run.run_id) if each.name == "small"]
    assert step.kind == run_pb2.STEP_KIND_MODEL


async def test_usage_is_summed_for_its_user_and_for_nobody_else(place: Place) -> None:
    ada, eve = await place.system.person(), await place.system.person()
    for model in ("small", "small", "unpriced"):
        run = await Runs(place.system, ada).start("writing", {"text": "Count.", "model": model})
        await Runs(place.system, ada).until(run.run_id, SUCCEEDED)
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(place.system.peer("agent-execution").channel)
    request = pb.GetRunStatisticsRequest()
    adas = await stub.GetRunStatistics(request, metadata=ada.metadata, timeout=10)
    assert [(each.model, each.calls, each.calls_without_price) for each in adas.model_usage] == [
        ("small", 2, 0),
        ("unpriced", 1, 1),
    ]
    eves = await stub.GetRunStatistics(request, metadata=eve.metadata, timeout=10)
    assert not eves.model_usage
    address = place.system.addresses["gateway"]
    async with Client(address, ada.token) as adas_client, Client(address, eve.token) as eves_client:
        assert [usage.calls for usage in await adas_client.get_model_usage()] == [2, 1]
        assert [usage.model for usage in (await adas_client.get_run(run.run_id)).model_usage] == ["unpriced"]
        assert await eves_client.get_model_usage() == []
        with pytest.raises(NotFound):
            await eves_client.get_run(run.run_id)


async def test_an_agent_in_a_process_asks_through_the_service(place: Place) -> None:
    person = await place.system.person()
    runs = Runs(place.system, person)
    run = await runs.start("writing_apart", {"text": "Count."})
    ended = await runs.until(run.run_id, SUCCEEDED)
    assert json.loads(ended.result_json)["text"] == "Hello there."
    assert [usage.calls for usage in ended.model_usage] == [1]


async def test_the_key_is_in_no_result_event_journal_or_log(place: Place) -> None:
    person = await place.system.person()
    runs = Runs(place.system, person)
    place.server.will("small", Reply(code=401, error=f"Incorrect API key provided: {KEY}"))
    refused = await runs.start("writing", {"text": "Count."})
    failed = await runs.until(refused.run_id, FAILED)
    assert failed.error.reason == "MODEL_REFUSED"
    run = await runs.start("writing", {"text": "Count."})
    ended = await runs.until(run.run_id, SUCCEEDED)
    seen = [str(failed), str(ended)]
    for run_id in (refused.run_id, run.run_id):
        seen += map(str, await runs.events(run_id))
        seen += map(str, await Journals(place.system, person).steps(run_id))
    seen += [path.read_text(errors="replace") for path in (place.system.data_dir / "logs").glob("*.log")]
    assert len(seen) > 10 and not [text for text in seen if KEY in text]
    assert f"Bearer {KEY}" in place.server.keys


async def test_an_unknown_model_is_one_sentence(place: Place) -> None:
    runs = Runs(place.system, await place.system.person())
    run = await runs.start("writing", {"text": "Count.", "model": "huge"})
    failed = await runs.until(run.run_id, FAILED)
    assert failed.error.message == "There is no model huge; choose one of small, unpriced."


async def test_a_person_consents_or_does_not(place: Place) -> None:
    person: Person = await place.system.person()
    eve: Person = await place.system.person()
    runs, journals = Runs(place.system, person), Journals(place.system, person)
    for approved in (True, False):
        run = await runs.start("consenting", {"text": "May I send it?"})
        [wait] = await journals.asked(run.run_id)
        assert (wait.prompt, wait.tool, wait.kind) == ("May I send it?", "", run_pb2.WAIT_KIND_APPROVAL)
        assert not await Journals(place.system, eve).waits(run.run_id)
        await journals.decide(wait.wait_id, approved, wait.arguments_digest)
        assert json.loads((await runs.until(run.run_id, SUCCEEDED)).result_json) is approved
