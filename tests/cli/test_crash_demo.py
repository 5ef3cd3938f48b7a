"""`carrel demo crash`: a worker dies in the middle of a run before one's eyes, and the checks find what they are there to find."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from carrel.api.events.v1.event_pb2 import Cursor, Event
from carrel.api.runs.v1.run_pb2 import Run, RunState
from carrel.api.tools.v1.tool_pb2 import ToolCall, ToolOutcome
from carrel_cli.demo.crash_checks import CrashEvidence, verdicts
from tests.cli.program import carrel, processes_of

KINDS = ["run_queued", "agent_started", *["tool_executing", "tool_completed"] * 2, "agent_completed"]
GOOD = CrashEvidence(
    run=Run(run_id="run-1", state=RunState.RUN_STATE_SUCCEEDED, attempt=2, result_json='{"paid": [1, 2]}'),
    events=[
        Event(type=kind, cursor=Cursor(epoch=1, offset=offset), final=offset == len(KINDS))
        for offset, kind in enumerate(KINDS, 1)
    ],
    tool_calls=[ToolCall(outcome=ToolOutcome.TOOL_OUTCOME_SUCCEEDED)] * 2,
    expected=2,
    payments=["1", "2"],
    payments_at_kill=1,
    killed=7,
    successor=8,
)


def test_all_is_well() -> None:
    assert [verdict.passed for verdict in verdicts(GOOD)] == [True] * 5


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ({"successor": 7}, "the worker was killed in the middle of the run"),
        ({"successor": None}, "the worker was killed in the middle of the run"),
        ({"payments_at_kill": 2}, "the worker was killed in the middle of the run"),
        ({"payments_at_kill": 0}, "the worker was killed in the middle of the run"),
        ({"run": Run(attempt=1, result_json='{"paid": [1, 2]}')}, "the run went on elsewhere and has its whole result"),
        ({"run": Run(attempt=2, result_json='{"paid": [1]}')}, "the run went on elsewhere and has its whole result"),
        ({"run": Run(attempt=2)}, "the run went on elsewhere and has its whole result"),
        ({"payments": ["1", "1", "2"]}, "each payment was made once"),
        ({"payments": ["1"]}, "each payment was made once"),
        ({"events": [*GOOD.events[:3], *GOOD.events[2:]]}, "its user was told everything once, in order"),
        ({"events": GOOD.events[1:]}, "its user was told everything once, in order"),
        ({"events": GOOD.events[:-1]}, "its user was told everything once, in order"),
        ({"tool_calls": GOOD.tool_calls[:1]}, "the ledger has each call once"),
        (
            {"tool_calls": [GOOD.tool_calls[0], ToolCall(outcome=ToolOutcome.TOOL_OUTCOME_UNKNOWN)]},
            "the ledger has each call once",
        ),
    ],
)
def test_each_check_finds_what_it_is_there_for(wrong: dict[str, Any], check: str) -> None:
    assert [verdict.check for verdict in verdicts(replace(GOOD, **wrong)) if not verdict.passed] == [check]


async def test_the_run_goes_on_and_the_effect_happened_once(tmp_path: Path) -> None:
    shown = await carrel("demo", "crash", "--json", TMPDIR=str(tmp_path))
    demo = shown.documents[-1].get("demo")
    assert demo, shown.out[-2000:] + shown.err
    assert (shown.code, demo["passed"], demo["left"]) == (0, True, []), shown.out[-2000:] + shown.err
    assert demo["payments"] == ["1", "2", "3", "4", "5"] and len(demo["checks"]) == 5
    run = next(document["run"] for document in shown.documents if "run" in document)
    assert run["attempt"] == 2 and json.loads(json.dumps(run["result"])) == {"paid": [1, 2, 3, 4, 5]}
    assert os.listdir(tmp_path) == [] and processes_of(tmp_path) == []


async def test_the_crash_demo_takes_no_trace(tmp_path: Path) -> None:
    refused = await carrel("demo", "crash", "--data", str(tmp_path / "trace.csv"), TMPDIR=str(tmp_path))
    assert refused.code == 2 and "takes no trace" in refused.err
    assert os.listdir(tmp_path) == []
