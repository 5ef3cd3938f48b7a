"""Models over real HTTP: their text, their tools, what they took; and each way in which they can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from carrel.agent import AgentError
from carrel.model_answer import answer_of, text_request
from carrel_chassis.errors import CarrelError
from carrel_execution.models.calls import Models, open_models
from carrel_execution.models.settings import load_models
from tests.support.openai_server import PROMPT_TOKENS, OpenAiServer, Reply, openai_server

KEY = "sk-test-0123456789abcdef"
BUSY = Reply(code=429, headers=(("Retry-After", "0"),), error="slow down")


@pytest_asyncio.fixture
async def server() -> AsyncIterator[OpenAiServer]:
    async with openai_server() as server:
        yield server


def write_models(folder: Path, address: str, **models: dict[str, Any]) -> Path:
    path = folder / "models.json"
    found = {name: {"address": address, "model": name, **values} for name, values in models.items()}
    path.write_text(json.dumps({"models": found}))
    return path


@pytest_asyncio.fixture
async def models(server: OpenAiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Models]:
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)
    path = write_models(
        tmp_path,
        server.address,
        small={"key_env": "TEST_MODEL_KEY", "input_usd": 1.0, "output_usd": 3.0, "timeout_seconds": 5.0},
        hasty={"timeout_seconds": 0.3, "attempts": 1, "fallback": "small"},
        alone={"attempts": 2},
    )
    async with open_models(path) as models:
        yield models


class Told:
    """What was written while the text grew."""

    def __init__(self) -> None:
        self.deltas: list[tuple[str, str]] = []
        self.first = asyncio.Event()

    async def write(self, message_id: str, delta: str) -> None:
        self.deltas.append((message_id, delta))
        self.first.set()

    def text(self, message_id: str) -> str:
        return "".join(delta for each, delta in self.deltas if each == message_id)


async def ask(models: Models, name: str, told: Told | None = None, request: Any = None, seconds: float = 20.0) -> Any:
    request = request or text_request("Who is there?", instructions="Be brief.")
    return await models.call(name, request, "m", (told or Told()).write, seconds)


async def test_a_text_grows_and_what_it_took_is_told(models: Models, server: OpenAiServer) -> None:
    server.will("small", Reply("One two three four.", word_seconds=0.06))
    told = Told()
    answer = answer_of(await ask(models, "small", told))
    assert answer.text == told.text("m") == "One two three four."
    assert len(told.deltas) > 1
    assert (answer.model, answer.input_tokens, answer.output_tokens) == ("small", PROMPT_TOKENS, 4)
    assert answer.cost_usd == pytest.approx((PROMPT_TOKENS * 1.0 + 4 * 3.0) / 1e6)
    assert server.keys == [f"Bearer {KEY}"]
    assert [message["content"] for message in server.requests[0]["messages"]] == ["Be brief.", "Who is there?"]


async def test_without_a_price_the_cost_is_unknown_and_not_nothing(models: Models) -> None:
    assert answer_of(await ask(models, "alone")).cost_usd is None


async def test_a_model_calls_tools(models: Models, server: OpenAiServer) -> None:
    server.will("small", Reply(calls=(("echo", {"text": "hello"}),)))
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    request = text_request("Say hello.") | {
        "parameters": {"function_tools": [{"name": "echo", "parameters_json_schema": schema}]}
    }
    result = await ask(models, "small", request=request)
    [part] = result["response"]["parts"]
    assert (part["part_kind"], part["tool_name"], json.loads(part["args"])) == ("tool-call", "echo", {"text": "hello"})
    assert server.requests[0]["tools"][0]["function"]["name"] == "echo"


async def test_a_busy_model_is_asked_again_when_it_says_so(models: Models, server: OpenAiServer) -> None:
    server.will("small", BUSY, Reply(code=503, headers=(("Retry-After", "0"),)), Reply("At last."))
    assert answer_of(await ask(models, "small")).text == "At last."
    assert len(server.requests) == 3


async def test_a_model_that_asks_for_more_patience_than_the_run_has_is_given_up(
    models: Models, server: OpenAiServer
) -> None:
    server.will("small", Reply(code=429, headers=(("Retry-After", "60"),)))
    with pytest.raises(AgentError) as caught:
        await ask(models, "small", seconds=0.3)
    assert caught.value.reason == "MODEL_UNAVAILABLE" and caught.value.retryable
    assert caught.value.message == "The model small is too busy or out of order (429); try again later."
    assert len(server.requests) == 1


async def test_a_fallback_is_asked_at_once_when_there_is_no_time_for_patience(
    models: Models, server: OpenAiServer
) -> None:
    server.will("hasty", Reply(code=429, headers=(("Retry-After", "60"),)))
    assert answer_of(await ask(models, "hasty", seconds=5.0)).model == "small"


async def test_a_dropped_connection_begins_the_text_anew_under_another_id(models: Models, server: OpenAiServer) -> None:
    server.will("small", Reply("One two three.", drop_after=2, word_seconds=0.06), Reply("One two three."))
    told = Told()
    answer = await ask(models, "small", told)
    assert answer_of(answer).text == told.text(answer["message_id"]) == "One two three."
    assert answer["message_id"] == "m.2" and told.text("m").startswith("One")


async def test_a_slow_stream_is_cut_and_the_fallback_is_asked(models: Models, server: OpenAiServer) -> None:
    never = asyncio.Event()
    server.will("hasty", Reply("This never ends.", held=never))
    answer = answer_of(await ask(models, "hasty"))
    assert (answer.text, answer.model) == ("Hello there.", "small")
    never.set()


async def test_a_model_out_of_order_is_told_when_all_tries_are_over(models: Models, server: OpenAiServer) -> None:
    broken = Reply(code=500, headers=(("Retry-After", "0"),), error="the stack of another user")
    server.will("alone", broken, broken)
    with pytest.raises(AgentError, match=r"^The model alone is too busy or out of order \(500\); try again later\.$"):
        await ask(models, "alone")
    assert len(server.requests) == 2


async def test_a_wrong_key_is_one_sentence_without_the_key(
    models: Models, server: OpenAiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.will("small", Reply(code=401, error=f"Incorrect API key provided: {KEY}"))
    with pytest.raises(AgentError) as caught:
        await ask(models, "small")
    assert caught.value.reason == "MODEL_REFUSED"
    assert caught.value.message == "The model small does not accept the key that the operator has set for it."
    assert len(server.requests) == 1
    shown = capsys.readouterr()
    assert KEY not in repr(caught.value.__dict__) + shown.out + shown.err


async def test_a_refused_request_is_not_repeated_nor_sent_elsewhere(models: Models, server: OpenAiServer) -> None:
    server.will("hasty", Reply(code=400, error="maximum context length is 5"))
    with pytest.raises(AgentError, match=r"has refused the request \(400\)"):
        await ask(models, "hasty")
    assert [request["model"] for request in server.requests] == ["hasty"]


async def test_an_unknown_model_and_a_request_of_no_form(models: Models) -> None:
    with pytest.raises(AgentError, match=r"^There is no model large\.$"):
        await ask(models, "large")
    with pytest.raises(AgentError, match="not of the form that models take"):
        await ask(models, "small", request={"messages": [{"kind": "speech"}]})


async def test_cancelling_a_call_ends_its_connection(models: Models, server: OpenAiServer) -> None:
    never = asyncio.Event()
    server.will("small", Reply("One two.", held=never))
    told = Told()
    call = asyncio.create_task(ask(models, "small", told))
    await asyncio.wait_for(told.first.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    never.set()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is no JSON or TOML file with a table `models`"),
        ('{"models": {"a": {"address": "ftp://x", "model": "m"}}}', "address of a model"),
        ('{"models": {"a": {"address": "http://x", "model": "m", "prize": 1}}}', "prize of a model"),
        ('{"models": {"a": {"address": "http://x", "model": "m", "fallback": "b"}}}', "which is none of the models"),
        ('{"models": {"a": {"address": "http://x", "model": "m", "fallback": "a"}}}', "falls back to itself"),
    ],
)
def test_settings_that_cannot_be_used_say_why(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(content)
    with pytest.raises(CarrelError, match=sentence):
        load_models(path)


async def test_a_key_that_is_not_there_keeps_the_service_from_starting(tmp_path: Path) -> None:
    path = write_models(tmp_path, "http://127.0.0.1:9/v1", small={"key_env": "NO_SUCH_KEY"})
    with pytest.raises(CarrelError, match="the key of the model small is not in the environment: set NO_SUCH_KEY"):
        async with open_models(path):
            pass


def test_a_key_lies_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "small.key").write_text(f"{KEY}\n")
    path = write_models(tmp_path, "http://127.0.0.1:9/v1", small={"key_file": "small.key"}, lost={"key_file": "none"})
    models = load_models(path)
    assert models["small"].key("small").get_secret_value() == KEY
    assert KEY not in repr(models["small"].key("small"))
    with pytest.raises(CarrelError, match="the key of the model lost cannot be read from"):
        models["lost"].key("lost")


def test_settings_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[models.b]\naddress = "http://x/v1"\nmodel = "m"\n[models.a]\naddress = "http://x/v1"\nmodel = "n"\n'
    )
    assert list(load_models(path)) == ["b", "a"]
