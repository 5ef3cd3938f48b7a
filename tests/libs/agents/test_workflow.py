"""The agents as a run sees them: their order, what they tell the user, the tools they call, and how they fail."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.libs.agents.conftest import Ask
from tests.support.agents import Corpora, LocalRun, Record

import carrel_agents
from carrel.agent import AgentError, ToolError
from carrel_agents import AGENTS
from carrel_agents.prices import EXAMPLE_PRICES, PricesInvalid, check_prices, load_prices
from carrel_agents.questions import RULES, classify
from carrel_agents.trace import find_columns

Write = Callable[..., Path]

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROW = "2023-11-16 18:15:46,374,44"
STEPS = ["triage", "data", "optimization", "actions", "reporting"]


async def reason_of(attempt: Any) -> tuple[str, str]:
    """The reason and the message with which a run fails."""
    with pytest.raises(AgentError) as caught:
        await attempt
    assert caught.value.message.endswith((".", "?")) and "\n" not in caught.value.message
    return caught.value.reason, caught.value.message


def test_names_are_unique_and_described() -> None:
    assert len({agent.name for agent in AGENTS}) == len(AGENTS) == 10
    assert all(agent.description for agent in AGENTS)


def test_the_agents_stand_on_the_sdk_and_on_little_else() -> None:
    root = Path(carrel_agents.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root_name = name.split(".")[0]
                known = root_name in sys.stdlib_module_names | {"carrel_agents", "pydantic"} or name == "carrel.agent"
                assert known, f"{file.name} imports {name}"


async def test_each_step_thinks_first_and_hands_its_result_on(ask: Ask, write: Write, record: Record) -> None:
    await ask(write(HEADER, ROW), "Hello")
    assert record.agents == ["supervisor", *STEPS]
    first = {
        agent: next(k for a, k, _ in record.steps if a == agent and k != "input") for agent in ["supervisor", *STEPS]
    }
    assert set(first.values()) == {"thinking"}
    handed_on = dict(record.of_kind("input"))["reporting"]
    assert {name for name, value in handed_on.items() if value} == {"question", "corpus", *STEPS[:-1]}


async def test_six_tool_calls_are_enough(ask: Ask, write: Write, record: Record) -> None:
    await ask(write(HEADER, ROW))
    assert [agent for agent, _ in record.of_kind("tool")] == ["triage", "triage", "optimization", *["data"] * 3]


async def test_the_same_trace_gives_the_same_report(ask: Ask, write: Write) -> None:
    path = write(HEADER, ROW, ROW)
    assert await ask(path) == await ask(path)


async def test_the_report_of_the_real_trace_fits_into_an_event(ask: Ask, real_trace: Path) -> None:
    report = await ask(real_trace)
    assert len(json.dumps(report)) < 64 * 1024


async def test_a_corpus_is_named_as_it_is(write: Write) -> None:
    corpora = Corpora({'my "best" trace; --': write(HEADER, ROW)})
    report = await LocalRun("supervisor", corpora).start({"question": "cost?", "corpus": 'my "best" trace; --'})
    assert report["facts"]["requests"] == 1
    corpora.close()


async def test_an_unknown_corpus(ask: Ask, write: Write) -> None:
    reason, message = await reason_of(ask(write(HEADER, ROW), corpus="other"))
    assert reason == "CORPUS_NOT_FOUND" and '"other"' in message


async def test_what_else_a_tool_refuses_is_passed_on(ask: Ask, write: Write) -> None:
    class Refusing(Corpora):
        def query(self, sql: str) -> Any:
            raise ToolError("QUOTA_EXCEEDED", "Wait a minute.")

    corpora = Refusing({})
    run = LocalRun("supervisor", corpora).start({"question": "cost?", "corpus": "trace"})
    assert await reason_of(run) == ("QUOTA_EXCEEDED", "Wait a minute.")
    corpora.close()


async def test_missing_columns_are_named(ask: Ask, write: Write) -> None:
    reason, message = await reason_of(ask(write("when,ContextTokens", "1,2")))
    assert reason == "TRACE_COLUMNS_MISSING"
    assert "lacks TIMESTAMP, GeneratedTokens" in message and "when, ContextTokens" in message


def test_two_columns_of_one_name_are_not_guessed_between() -> None:
    with pytest.raises(AgentError, match="2 columns that could be TIMESTAMP") as caught:
        find_columns("trace", ["TIMESTAMP", " timestamp ", "ContextTokens", "GeneratedTokens"])
    assert caught.value.reason == "TRACE_COLUMNS_AMBIGUOUS"


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    assert (
        find_columns("trace", ["\ufeffTIMESTAMP", "ContextTokens", "GeneratedTokens"])[0]["time"] == "\ufeffTIMESTAMP"
    )


async def test_a_trace_without_rows(ask: Ask, write: Write) -> None:
    assert (await reason_of(ask(write(HEADER))))[0] == "TRACE_EMPTY"


async def test_a_trace_of_broken_rows(ask: Ask, write: Write) -> None:
    reason, message = await reason_of(ask(write(HEADER, "never,1,2", "2023-11-16 18:15:46,x,2")))
    assert reason == "TRACE_UNREADABLE" and "None of the 2 rows" in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"question": ""},
        {"question": " \n"},
        {"question": None},
        {"question": 7},
        {"question": "x" * 10_001},
        {"corpus": ""},
        {"surprise": 1},
        {"columns": {"time": 7}},
        {"corpus": ["trace"]},
    ],
)
@pytest.mark.parametrize("agent", ["supervisor", "triage"])
async def test_wrong_input(ask: Ask, write: Write, record: Record, agent: str, wrong: dict[str, Any]) -> None:
    reason, _ = await reason_of(ask(write(HEADER, ROW), **{"agent": agent, **wrong}))
    assert reason == "INVALID_INPUT" and not record.of_kind("tool")


async def test_a_question_of_ten_thousand_characters_is_read(ask: Ask, write: Write) -> None:
    report = await ask(write(HEADER, ROW), question="cost " * 2_000)
    assert len(report["question"]) == 10_000 and len(report["markdown"]) < 10_000


@pytest.mark.parametrize("agent", ["data", "optimization", "actions", "data_helper", "reporting"])
@pytest.mark.parametrize("handed_on", [{}, {"triage": {}, "data": {}, "optimization": 1, "actions": None}])
async def test_later_steps_say_that_they_need_the_earlier(
    ask: Ask, write: Write, agent: str, handed_on: dict[str, Any]
) -> None:
    reason, message = await reason_of(ask(write(HEADER, ROW), agent=agent, **handed_on))
    assert reason == "INVALID_INPUT" and ("supervisor" in message or "triage" in message)


async def test_echo(ask: Ask, write: Write, record: Record) -> None:
    assert await ask(write(HEADER), agent="echo", text="hé") == {"text": "hé"}
    assert [kind for _, kind, _ in record.steps] == ["input", "thinking", "tool"]
    assert (await reason_of(ask(write(HEADER), agent="echo", text=None)))[0] == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("question", "intent", "confidence"),
    [
        ("How can I save money?", "cost", 1.0),
        ("WHY SO SLOW", "latency", 1.0),
        ("peak load, and the cost of tokens", "capacity", 0.5),
        ("cost of tokens", "cost", 0.5),
        ("Was ist los?", "overview", 0.0),
        ("costume", "overview", 0.0),
    ],
)
def test_keywords_decide_what_a_question_is_about(question: str, intent: str, confidence: float) -> None:
    answer = classify(question)
    assert (answer["intent"], answer["confidence"]) == (intent, confidence)


def test_no_word_speaks_for_two_intents() -> None:
    words = [word for speaking in RULES.values() for word in speaking]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"currency": ""}, '"currency" must be a text'),
        ({"label": None}, '"label" must be a text'),
        ({"discount": 1}, '"discount" is not part'),
        ({"models": {}}, "at least one model"),
        ({"models": {"a": 3}}, '"models.a" must be an object'),
        ({"models": {"a": {"input_per_million": 1}}}, "output_per_million"),
        ({"models": {"a": {"input_per_million": -1, "output_per_million": 1}}}, "input_per_million"),
        ({"models": {"a": {"input_per_million": True, "output_per_million": 1}}}, "input_per_million"),
        ({"models": {"a": {"input_per_million": float("nan"), "output_per_million": 1}}}, "input_per_million"),
        ({"assumed_model": "nobody"}, '"assumed_model" is "nobody"'),
        ({"smaller_model": "nobody"}, '"smaller_model" is "nobody"'),
    ],
)
async def test_a_wrong_price_table_is_refused(
    ask: Ask, write: Write, tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    table = {**EXAMPLE_PRICES, **change}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(table))
    with pytest.raises(PricesInvalid) as caught:
        load_prices(file)
    assert fault in caught.value.faults[0] and all(each.endswith(".") for each in caught.value.faults)
    report = await ask(write(HEADER, ROW), settings={"prices": table})
    assert report["failures"][0]["agent"] == "optimization" and report["failures"][0]["reason"] == "PRICES_INVALID"


def test_a_price_table_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(EXAMPLE_PRICES))
    assert load_prices(file) == EXAMPLE_PRICES
    assert len(_faults({})) == 5


def test_a_price_table_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    for name, fault in (
        ("absent.json", "cannot be read"),
        ("broken.json", "is not JSON"),
        ("list.json", "a JSON object"),
    ):
        with pytest.raises(PricesInvalid, match=fault):
            load_prices(tmp_path / name)


def _faults(table: Any) -> tuple[str, ...]:
    with pytest.raises(PricesInvalid) as caught:
        check_prices(table)
    return caught.value.faults


@pytest.mark.parametrize("wrong", [{"short_input_tokens": 0}, {"short_output_tokens": "9"}, {"other": 1}, [1]])
async def test_wrong_assumptions_are_refused(ask: Ask, write: Write, wrong: Any) -> None:
    reason, _ = await reason_of(ask(write(HEADER, ROW), settings={"assumptions": wrong}))
    assert reason == "ASSUMPTIONS_INVALID"
