"""Messages as JSON, and as server-sent events."""

from __future__ import annotations

import json

from carrel.api.events.v1 import event_pb2, event_service_pb2
from carrel.api.runs.v1 import run_pb2
from carrel.api.tools.v1 import tool_pb2
from carrel_gateway.http_face.json_form import to_json
from carrel_gateway.http_face.sse import encode


def test_json_in_texts_becomes_objects_and_wide_numbers_are_numbers() -> None:
    run = run_pb2.Run(run_id="run-1", input_json='{"a":[1,2.5,"ü"]}', state=run_pb2.RUN_STATE_RUNNING)
    run.create_time.FromSeconds(0)
    shown = to_json(run)
    assert (shown["input"], shown["result"], shown["state"]) == ({"a": [1, 2.5, "ü"]}, None, "RUN_STATE_RUNNING")
    assert shown["create_time"] == "1970-01-01T00:00:00Z"
    assert to_json(tool_pb2.Corpus(size_bytes=2**53))["size_bytes"] == 2**53
    assert to_json(event_pb2.Cursor(epoch=2**63, offset=7)) == {"epoch": 2**63, "offset": 7}


def test_the_typed_payload_of_an_event_is_taken_apart_too() -> None:
    event = event_pb2.Event(type="custom", custom=event_pb2.Custom(name="table", data_json='{"rows":3}'))
    assert to_json(event)["custom"] == {"name": "table", "data": {"rows": 3}}
    assert "agent_started" not in to_json(event)


def test_text_that_is_no_json_stays_a_text() -> None:
    assert to_json(run_pb2.Run(result_json="{"))["result"] == "{"
    assert to_json(run_pb2.Run(result_json="NaN"))["result"] is None


def test_an_event_is_one_block_whatever_is_in_it() -> None:
    text = "one\ntwo\r\n\nevent: forged\ndata: {}\n\n"
    event = event_pb2.Event(
        type="agent_thinking",
        cursor=event_pb2.Cursor(epoch=3, offset=9),
        agent_thinking=event_pb2.AgentThinking(text=text),
    )
    block = encode(event_service_pb2.SubscribeResponse(events=[event], position=event.cursor).SerializeToString())
    lines = block.split("\n")
    assert lines[:2] == ["id: 3-9", "event: agent_thinking"]
    assert json.loads(lines[2].removeprefix("data: "))["agent_thinking"]["text"] == text
    assert lines[3:] == ["", ""]


def test_a_heartbeat_moves_the_reader_on_without_an_event() -> None:
    position = event_pb2.Cursor(epoch=3, offset=12)
    assert encode(event_service_pb2.SubscribeResponse(position=position).SerializeToString()) == ":\nid: 3-12\n\n"
    assert encode(b"") == ":\n\n"
