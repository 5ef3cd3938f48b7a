"""Runs as values."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrel.api.events.v1 import event_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_execution import domain
from carrel_execution.attempt import events
from carrel_execution.domain import ListRequest, Outcome, Run, State
from carrel_execution.runs.start import StartRequest, check_input

RUN = Run("run-7", "thread-7", "echo", State.QUEUED, 0, "{}", "", "", "", "", datetime.now(UTC), None, None)


def test_five_states_are_final() -> None:
    assert [state for state in State if state.final] == ["SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "DEAD"]


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '{"a": NaN}', "{", '{"a":' * 100_000, json.dumps({"a": "x" * 262_144})]
)
def test_an_input_that_is_no_small_json_object_is_refused(text: str) -> None:
    with pytest.raises(CarrelError) as raised:
        check_input(text)
    assert raised.value.fields.keys() == {"input_json"}


def test_a_request_needs_an_id_and_its_content_has_a_digest() -> None:
    with pytest.raises(CarrelError) as raised:
        StartRequest("", "echo", "{}", "")
    assert raised.value.reason == "INVALID_ID"
    digests = {
        StartRequest("request-7", *content).digest
        for content in (("a", "{}", ""), ("b", "{}", ""), ("a", "{ }", ""), ("a", "{}", "thread-7"))
    }
    assert len(digests) == 4


@pytest.mark.parametrize("value", [float("nan"), object(), {1: object()}, "\ud800"])
def test_a_result_that_is_no_json_value_fails_the_run(value: object) -> None:
    assert domain.succeeded(value) == Outcome(
        State.FAILED, reason="RESULT_INVALID", message="The agent returned something that is no JSON value."
    )


def test_a_result_that_is_too_large_fails_the_run() -> None:
    assert domain.succeeded("x" * domain.MAX_RESULT_BYTES).reason == "RESULT_TOO_LARGE"
    assert domain.succeeded("x" * (domain.MAX_RESULT_BYTES - 2)).state is State.SUCCEEDED


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_cleaned_text_fits_every_store(text: str, limit: int) -> None:
    cleaned = domain.clean(text + "\0\ud800", limit)
    assert len(cleaned) <= limit and "\0" not in cleaned and cleaned.encode()


def test_a_page_token_is_good_for_the_same_list_alone() -> None:
    mine = ListRequest.checked(2, "", [State.QUEUED], "")
    token = mine.token_after(RUN)
    assert ListRequest.checked(2, token, [State.QUEUED], "").page.id == "run-7"
    for states, thread_id, given_token in (
        ([], "", token),
        ([State.QUEUED], "thread-7", token),
        ([State.QUEUED], "", "AAAA"),
        ([State.QUEUED], "", "no token at all"),
    ):
        with pytest.raises(CarrelError) as raised:
            ListRequest.checked(2, given_token, states, thread_id)
        assert raised.value.reason == "CURSOR_INVALID"
    with pytest.raises(CarrelError):
        ListRequest.checked(201, "", [], "")


@pytest.mark.parametrize(
    ("outcome", "type"),
    [
        (domain.succeeded({}), "agent_completed"),
        (domain.failed("NO", "No."), "agent_failed"),
        (domain.timed_out(1.0), "agent_failed"),
        (domain.cancelled("enough"), "run_cancelled"),
        (domain.died("gone"), "agent_died"),
    ],
)
def test_every_end_has_one_final_event_of_one_id(outcome: Outcome, type: str) -> None:
    event = events.final("run-7", "echo", 1.5, outcome)
    assert (event.event_id, event.type, event.final, event.WhichOneof("payload")) == ("run-7.final", type, True, type)


def test_events_are_batched_in_order_and_none_is_left_out() -> None:
    given_events = [pb.Event(event_id=str(number)) for number in range(450)]
    given_events[10].custom.data_json = "x" * (2 * 1024 * 1024)
    batches = list(events.batches(given_events))
    assert [event for batch in batches for event in batch] == given_events
    assert max(map(len, batches)) <= 200 and [given_events[10]] in batches
