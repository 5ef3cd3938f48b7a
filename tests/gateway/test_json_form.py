"""Messages as JSON, and as server-sent events."""

from __future__ import annotations

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.context.v1 import context_service_pb2
from carrel.api.events.v1 import event_pb2, event_service_pb2
from carrel.api.runs.v1 import run_pb2, run_service_pb2
from carrel.api.tools.v1 import policy_service_pb2, tool_pb2
from carrel_gateway.http_face.json_form import encoded, to_json
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
    assert to_json(run_pb2.Run(result_json='"\\ud800"'))["result"] == '"\\ud800"'


@pytest.mark.parametrize("depth", [100, 300, 1000, 5000])
def test_json_that_is_deep_stays_a_text_and_can_be_written(depth: int) -> None:
    text = '{"a":[' * (depth // 2) + "1" + "]}" * (depth // 2)
    shown = to_json(run_pb2.Run(result_json=text))
    assert (shown["result"] == text) == (depth > 200)
    assert json.loads(encoded(shown))["run_id"] == ""


def test_every_kind_of_field_has_its_form() -> None:
    page = run_service_pb2.ListRunsResponse(runs=[run_pb2.Run(wait_ids=["w-1"], timeout=Duration(seconds=90))])
    shown = to_json(page)
    assert (shown["runs"][0]["wait_ids"], shown["runs"][0]["timeout"], shown["next_page_token"]) == (["w-1"], "90s", "")
    key = context_service_pb2.SigningKey(public_key=b"\x00\xff", sign_time=Timestamp(seconds=1, nanos=5_000_000))
    assert (to_json(key)["public_key"], to_json(key)["sign_time"]) == ("AP8=", "1970-01-01T00:00:01.005Z")
    assert to_json(run_pb2.RunStatistics(success_rate=float("inf")))["success_rate"] is None
    condition = policy_service_pb2.ArgumentCondition(pointer="/a", values_json=["1", '"x"'])
    assert to_json(condition)["values"] == [1, "x"]


def test_a_message_reads_the_same_as_protobufs_own_json() -> None:
    """But for JSON in texts and 64-bit numbers, which are why this form exists."""
    run = run_pb2.Run(run_id="run-1", attempt=3, state=run_pb2.RUN_STATE_DEAD, error=run_pb2.RunError(reason="X"))
    for nanos in (0, 1, 1_000, 1_000_000, 999_999_999):
        run.create_time.CopyFrom(Timestamp(seconds=1_790_000_000, nanos=nanos))
        theirs = MessageToDict(run, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        ours = to_json(run)
        assert {**theirs, "input": None, "result": None} == {**ours, "input_json": "", "result_json": ""}


def test_an_event_is_one_block_whatever_is_in_it() -> None:
    text = "one\ntwo\r\n\nevent: forged\ndata: {}\n\n"
    event = event_pb2.Event(
        type="agent_thinking",
        cursor=event_pb2.Cursor(epoch=3, offset=9),
        agent_thinking=event_pb2.AgentThinking(text=text),
    )
    block = encode(event_service_pb2.SubscribeResponse(events=[event], position=event.cursor).SerializeToString())
    lines = block.decode().split("\n")
    assert lines[:2] == ["id: 3-9", "event: agent_thinking"]
    assert json.loads(lines[2].removeprefix("data: "))["agent_thinking"]["text"] == text
    assert lines[3:] == ["", ""]


def test_a_heartbeat_moves_the_reader_on_without_an_event() -> None:
    position = event_pb2.Cursor(epoch=3, offset=12)
    assert encode(event_service_pb2.SubscribeResponse(position=position).SerializeToString()) == b":\nid: 3-12\n\n"
    assert encode(b"") == b":\n\n"
