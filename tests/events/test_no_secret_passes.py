"""Planted secrets: whatever an event carries them in, none reaches the table, the bus or a reader. The cases are in `secrets.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import nats
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrel.api.events.v1 import event_pb2 as pb
from carrel_chassis.ids import new_id
from carrel_events import sanitise
from carrel_events.hub import subject_of
from carrel_events.sanitise import clean_json, clean_text
from tests.events.desk import Run, reader
from tests.support.system import Person, System

CASES = json.loads((Path(__file__).parent / "secrets.json").read_text())
KEYS: list[str] = CASES["keys"]
SHAPES: dict[str, str] = CASES["shapes"]
HARMLESS: list[str] = CASES["harmless"]

VALUE = "Zq7planted" + "x9" * 8
"""A value that nothing but its key gives away."""


def nested(key: str, value: str, depth: int) -> Any:
    """The key at some depth, in objects and lists."""
    inner: Any = {"n": 1, key: value}
    for level in range(depth):
        inner = [inner, level] if level % 2 else {"inner": inner, "k": "v"}
    return inner


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_a_secret_under_any_of_these_keys_is_gone(key: str, depth: int) -> None:
    for style in (key, key.upper(), key.title()):
        assert VALUE not in clean_json(json.dumps(nested(style, VALUE, depth)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_secret_of_any_of_these_shapes_is_gone(shape: str) -> None:
    secret = max(shape.split(), key=len)
    assert secret not in clean_text(f"it was {shape} yesterday")
    assert secret not in clean_json(json.dumps({"log": [{"line": shape}]}))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert clean_text(text) == text
    assert json.loads(clean_json(json.dumps({"note": text})))["note"] == text


words = st.text("abcdefgh ,.:\"'{}[]\\/=\n\t", max_size=30)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(before=plain, after=plain, key=st.sampled_from(KEYS), depth=st.integers(0, 6), ascii_only=st.booleans())
def test_among_anything_else_a_secret_by_its_key_is_gone(
    before: Any, after: Any, key: str, depth: int, ascii_only: bool
) -> None:
    text = json.dumps([before, nested(key, VALUE, depth), after], ensure_ascii=ascii_only)
    assert VALUE not in clean_json(text)


@settings(max_examples=200, deadline=None)
@given(before=words, after=words, shape=st.sampled_from(sorted(SHAPES.values())))
def test_among_any_other_text_a_secret_by_its_shape_is_gone(before: str, after: str, shape: str) -> None:
    secret = max(shape.split(), key=len)
    assert secret not in clean_text(f"{before} {shape} {after}")
    assert secret not in clean_json(json.dumps({"text": f"{before} {shape} {after}"}))


odd = st.text("sSſkKK-_ eyJtoOnNauthghpxAIzZ:/@\\\\.=bBrRwd", max_size=40)


@settings(max_examples=2000, deadline=None)
@given(text=odd)
def test_the_quick_look_overlooks_nothing_that_the_search_would_find(text: str) -> None:
    assert sanitise._suspicious(text) == (sanitise._SUSPICIOUS(text) is not None)


def everywhere(key: str, secret_text: str) -> list[pb.Event]:
    """The secret in every payload that has a text or a JSON of its producer's."""
    data = json.dumps({"result": [{key: VALUE}, secret_text]})
    payloads: dict[str, Any] = {
        "agent_thinking": pb.AgentThinking(text=secret_text),
        "tool_executing": pb.ToolExecuting(tool="sql", arguments_json=data),
        "tool_completed": pb.ToolCompleted(tool="sql", error_message=secret_text),
        "agent_completed": pb.AgentCompleted(result_json=data),
        "agent_failed": pb.AgentFailed(reason=secret_text, message=secret_text),
        "agent_died": pb.AgentDied(cause=secret_text),
        "run_cancelled": pb.RunCancelled(reason=secret_text),
        "progress_update": pb.ProgressUpdate(message=secret_text),
        "partial_result": pb.PartialResult(message_id="m", text=secret_text),
        "custom": pb.Custom(name="x", data_json=data),
    }
    delta = ("partial_result", pb.PartialResult(message_id="m", delta=secret_text))
    return [
        pb.Event(event_id=new_id("event"), type=kind, **{kind: payload}) for kind, payload in [*payloads.items(), delta]
    ]


async def test_no_planted_secret_reaches_the_table_the_bus_or_a_reader(system: System, ada: Person) -> None:
    secret = max(SHAPES["JWT"].split(), key=len)
    on_the_bus: list[bytes] = []
    bus = await nats.connect(system.stack.nats_url)

    async def overhear(message: Any) -> None:
        on_the_bus.append(message.data)

    await bus.subscribe(subject_of(ada.context.owner), cb=overhear)
    await bus.flush()
    run = await Run.of(system, ada)
    events = everywhere("X-Api-Key", SHAPES["JWT"])
    async with reader(system, ada).stream() as stream:
        await stream.open()
        await run.append(*events)
        received = await stream.until_events(len(events))
    await bus.flush()
    await bus.drain()
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    rows = await connection.fetch("SELECT body FROM events.event WHERE user_id = $1", ada.user_id)
    await connection.close()
    assert len(rows) == len(events) - 1 and on_the_bus
    places = {
        "the table": [row["body"] for row in rows],
        "the bus": on_the_bus,
        "the reader": [event.SerializeToString() for event in received],
    }
    for place, contents in places.items():
        for planted in (secret, VALUE):
            assert not any(planted.encode() in content for content in contents), f"{planted} in {place}"
    assert sum(b"[redacted]" in body for body in places["the table"]) == len(rows)
