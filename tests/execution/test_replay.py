"""What a later attempt makes of the journal: pure rules, without a clock or a database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carrel.agent import Agent, AgentError, OutcomeUnknown, Retry, ToolError
from carrel.agent_errors import AgentDied
from carrel.replay import (
    Answered,
    Journal,
    Mismatch,
    StepKind,
    StepRecord,
    StepState,
    WaitKind,
    WaitState,
    error_kind,
    error_of,
    wait_id,
)
from carrel_execution.queue.retrying import retry_of

DONE = StepRecord("3", StepKind.LOCAL, "work", "", StepState.SUCCEEDED, "7")
FAILED = replace(
    DONE, state=StepState.FAILED, result_json="", error_kind="AGENT", error_reason="NO", error_message="No."
)
ASKED = Answered("wait-7", "3", WaitKind.INPUT, WaitState.RESOLVED, "asked", "", "", "7", 1.0, 2.0)


def find(journal: Journal, kind: StepKind = StepKind.LOCAL, name: str = "work", input_digest: str = "") -> object:
    return journal.find("3", kind, name, input_digest)


def test_what_has_succeeded_is_found_in_every_attempt_and_retry() -> None:
    for retry in (0, 2):
        assert find(Journal([DONE], retry=retry)) == ("3", DONE)
    again = replace(DONE, step_id="3~1", retry=1)
    assert find(Journal([FAILED, again], retry=2)) == ("3~1", again)


def test_what_has_failed_stays_so_within_a_retry_and_is_done_again_in_the_next() -> None:
    assert find(Journal([FAILED])) == ("3", FAILED)
    assert find(Journal([FAILED], retry=1)) == ("3~1", None)
    later = replace(FAILED, step_id="3~1", retry=1)
    assert find(Journal([FAILED, later], retry=1)) == ("3~1", later)
    assert find(Journal([FAILED, later], retry=2)) == ("3~2", None)


def test_what_is_new_at_a_place_has_its_plain_key() -> None:
    assert find(Journal()) == ("3", None)
    assert find(Journal(retry=2)) == ("3", None)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((StepKind.LOCAL, "other", ""), "the step other now and for the step work before"),
        ((StepKind.AGENT, "work", ""), "the agent work now and for the step work before"),
        ((StepKind.LOCAL, "work", "else"), "the step work now with another input before"),
    ],
)
def test_another_step_at_a_place_is_a_mismatch(asked: tuple[StepKind, str, str], says: str) -> None:
    with pytest.raises(Mismatch) as mismatch:
        find(Journal([DONE]), *asked)
    assert str(mismatch.value) == says


def test_a_step_and_a_question_do_not_pass_for_each_other() -> None:
    with pytest.raises(Mismatch):
        find(Journal(waits=[ASKED]))
    for journal in (Journal([DONE]), Journal(waits=[replace(ASKED, input_digest="else")])):
        with pytest.raises(Mismatch):
            journal.wait("3", WaitKind.INPUT, "asked", "an answer")
    assert Journal(waits=[ASKED]).wait("3", WaitKind.INPUT, "asked", "an answer") == ASKED


def test_a_wait_has_one_id_for_each_place_of_each_run() -> None:
    ids = [wait_id(run, step) for run in ("run-7", "run-8") for step in ("1", "2")]
    assert len(set(ids)) == 4 and ids == [wait_id(run, step) for run in ("run-7", "run-8") for step in ("1", "2")]


@pytest.mark.parametrize(
    "error",
    [
        AgentError("NO", "No."),
        AgentError("NO", "No.", retryable=True),
        ToolError("NO", "No."),
        OutcomeUnknown("NO", "No."),
        AgentDied("Gone."),
    ],
)
def test_a_failure_is_raised_again_as_it_was(error: AgentError) -> None:
    kept = replace(FAILED, error_kind=error_kind(error), error_reason=error.reason, error_message=error.message)
    again = error_of(kept)
    assert type(again) is type(error)
    assert (again.reason, again.message, again.retryable) == (error.reason, error.message, error.retryable)


class Plain(Agent):
    name = "plain"

    async def run(self, context: object, input: object) -> None:
        """Never run."""


class Persistent(Plain):
    retry = Retry(attempts=3, first_seconds=1.0, factor=2.0, most_seconds=3.0, reasons=frozenset({"NOT_YET"}))


@pytest.mark.parametrize(
    ("agent", "failure", "retries", "again"),
    [
        (Plain, AgentError("NO", "No."), 0, False),
        (Plain, AgentError("NO", "No.", retryable=True), 0, True),
        (Plain, ValueError(), 0, False),
        (Persistent, AgentError("NO", "No."), 0, False),
        (Persistent, AgentError("NOT_YET", "No."), 0, True),
        (Persistent, AgentError("NOT_YET", "No."), 1, True),
        (Persistent, AgentError("NOT_YET", "No."), 2, False),
        (Persistent, AgentError("NO", "No.", retryable=True), 2, False),
    ],
)
def test_a_failure_is_tried_again_as_its_agent_says(
    agent: type[Agent], failure: Exception, retries: int, again: bool
) -> None:
    assert (retry_of(agent, failure, retries) is not None) == again


def test_pauses_grow_up_to_a_limit() -> None:
    assert [Persistent.retry.pause_seconds(retry) for retry in (1, 2, 3, 9)] == [1.0, 2.0, 3.0, 3.0]
