"""The demo's checks find what they are there to find: each is shown evidence in which one thing is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from carrel.api.events.v1.event_pb2 import Cursor, Event, ToolExecuting
from carrel.api.runs.v1.run_pb2 import Run, RunState
from carrel.api.tools.v1.tool_pb2 import Corpus, ToolCall
from carrel_cli.demo.checks import LIFE, verdicts
from carrel_cli.demo.evidence import Evidence
from carrel_cli.demo.trace_file import TraceFile, generated_example, shipped_example

NOT_FOUND = "NOT_FOUND RUN_NOT_FOUND"
Tampering = Callable[[Evidence, Evidence], Evidence]


def evidence(tenant: str, user: str, trace: TraceFile) -> Evidence:
    """What a user receives when all is well."""
    run_id = f"run-of-{user}"
    facts = {
        "requests": trace.requests,
        "total_rows": trace.requests,
        "broken_rows": 0,
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
    }
    run = Run(run_id=run_id, state=RunState.RUN_STATE_SUCCEEDED, result_json=json.dumps({"facts": facts}))
    return Evidence(
        tenant_id=tenant,
        user_id=user,
        trace=trace,
        run=run,
        events=tuple(event(tenant, user, place, kind) for place, kind in enumerate(("run_queued", *LIFE), 1)),
        runs=(Run(run_id=run_id),),
        tool_calls=(ToolCall(tool_call_id=f"call-of-{user}", run_id=run_id, tool="sql_query"),),
        corpora=(Corpus(corpus_id=f"corpus-of-{user}", name="trace", sha256=trace.sha256),),
        answers_about_the_other={"get": NOT_FOUND, "watch": NOT_FOUND},
    )


def event(tenant: str, user: str, offset: int, kind: str) -> Event:
    """An event of the user's only run."""
    made = Event(
        event_id=f"event-{offset}-of-{user}",
        cursor=Cursor(epoch=1, offset=offset),
        tenant_id=tenant,
        user_id=user,
        run_id=f"run-of-{user}",
        type=kind,
        final=kind == "agent_completed",
    )
    if kind == "tool_executing":
        made.tool_executing.CopyFrom(ToolExecuting(tool="sql_query"))
    return made


def changed(evidence: Evidence, place: int, **fields: Any) -> Evidence:
    """The evidence with one event that differs."""
    copy = Event()
    copy.CopyFrom(evidence.events[place])
    for name, value in fields.items():
        if name == "offset":
            copy.cursor.offset = value
        else:
            setattr(copy, name, value)
    return replace(evidence, events=(*evidence.events[:place], copy, *evidence.events[place + 1 :]))


ADA = evidence("acme", "ada", generated_example())
BEN = evidence("globex", "ben", shipped_example())


def failed(ada: Evidence, ben: Evidence, blocked: float | str | None = 0.0) -> list[str]:
    """The checks that failed."""
    return [verdict.check for verdict in verdicts(ada, ben, blocked) if verdict.passed is False]


def test_when_all_is_well_every_check_passes_and_shows_its_figures() -> None:
    found = verdicts(ADA, BEN, 0.0)
    assert {verdict.passed for verdict in found} == {True}
    assert all(verdict.figures for verdict in found)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda ada, _: replace(ada, run=Run(run_id="run-of-ada", state=RunState.RUN_STATE_FAILED)), "run succeeded"),
        (lambda ada, _: replace(ada, events=ada.events[1:]), "none missing"),
        (lambda ada, _: replace(ada, events=(*ada.events[:3], *ada.events[2:])), "none missing"),
        (lambda ada, _: replace(ada, events=()), "none missing"),
        (lambda ada, _: changed(ada, 2, offset=7), "none missing"),
        (lambda ada, _: changed(ada, 2, tenant_id="globex"), "all their own"),
        (lambda ada, _: changed(ada, 2, user_id="ben"), "all their own"),
        (lambda ada, _: changed(ada, 3, type="custom"), "five critical events"),
        (lambda ada, _: changed(changed(ada, 1, type=LIFE[1]), 2, type=LIFE[0]), "five critical events"),
        (lambda ada, _: changed(ada, 2, final=True), "exactly one final"),
        (lambda ada, _: changed(ada, 5, final=False), "exactly one final"),
        (lambda ada, ben: replace(ada, runs=(*ada.runs, *ben.runs)), "lists hold only"),
        (lambda ada, _: replace(ada, runs=()), "lists hold only"),
        (lambda ada, ben: replace(ada, tool_calls=(*ada.tool_calls, *ben.tool_calls)), "lists hold only"),
        (lambda ada, _: replace(ada, tool_calls=()), "lists hold only"),
        (lambda ada, ben: replace(ada, corpora=ben.corpora), "lists hold only"),
        (lambda ada, ben: replace(ada, run=Run(run_id="run-of-ada", result_json=ben.run.result_json)), "ada's file"),
        (lambda ada, ben: replace(ada, events=(*ada.events, ben.events[0])), "received nothing of ben"),
        (lambda ada, _: changed(ada, 2, agent="about run-of-ben"), "received nothing of ben"),
        (lambda ada, _: replace(ada, answers_about_the_other={"get": "OK"}), "told that there is none"),
        (lambda ada, _: replace(ada, answers_about_the_other={}), "told that there is none"),
        (
            lambda ada, _: replace(ada, answers_about_the_other={"get": "PERMISSION_DENIED SCOPE_MISSING"}),
            "told that there is none",
        ),
    ],
)
def test_what_is_wrong_fails_its_check(tamper: Tampering, words: str) -> None:
    assert any(words in check for check in failed(tamper(ADA, BEN), BEN))


def test_equal_facts_of_different_files_fail() -> None:
    same = replace(BEN, run=Run(run_id="run-of-ben", result_json=ADA.run.result_json))
    assert "the facts of ada and ben differ" in failed(ADA, same)


@pytest.mark.parametrize(("blocked", "passed"), [(0.0, True), (1.0, False), ("not on the page", False), (None, None)])
def test_the_tripwire_is_read_and_not_assumed(blocked: float | str | None, passed: bool | None) -> None:
    assert verdicts(ADA, BEN, blocked)[-1].passed is passed
