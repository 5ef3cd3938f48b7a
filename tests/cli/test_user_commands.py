"""What a user does at the command line, end to end, and that another user's things are not there."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

import asyncpg

from carrel.api.context.v1 import user_context_pb2
from carrel_chassis.signing import decode_context
from tests.cli.program import EXAMPLE, Ended, as_person, carrel, ended, next_line, running
from tests.support.expect import eventually
from tests.support.system import Person, System


async def test_a_report_comes_from_an_uploaded_file(system: System, ada: Person) -> None:
    uploaded = await as_person(system, ada, "corpus", "upload", "trace", str(EXAMPLE), "--json")
    assert uploaded.document["corpus"]["size_bytes"] == EXAMPLE.stat().st_size
    listed = await as_person(system, ada, "corpus", "list", "--json")
    assert [corpus["name"] for corpus in listed.document["corpora"]] == ["trace"]

    arguments = ("run", "supervisor", "Where does the money go?", "--corpus", "trace")
    first, *events, last = (await as_person(system, ada, *arguments, "--json")).documents
    assert {"run"} == first.keys() == last.keys()
    assert last["run"]["state"] == "SUCCEEDED"
    assert last["run"]["result"]["facts"]["requests"] == len(EXAMPLE.read_text().splitlines()) - 1
    assert [event["event"]["final"] for event in events] == [False] * (len(events) - 1) + [True]
    assert {event["event"]["run_id"] for event in events} == {first["run"]["run_id"]}

    on_a_pipe = await as_person(system, ada, *arguments)
    assert on_a_pipe.code == 0
    assert on_a_pipe.out.startswith("# Usage report: trace\n")
    assert "calls sql_query" in on_a_pipe.err

    deleted = await as_person(system, ada, "corpus", "delete", "trace")
    assert (deleted.code, deleted.out) == (0, "trace is deleted.\n")


async def test_a_run_that_fails_says_why_and_exits_with_1(system: System, ada: Person) -> None:
    failed = await as_person(system, ada, "run", "supervisor", "What?", "--corpus", "trace")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.splitlines()[-1].endswith("[CORPUS_NOT_FOUND]")


async def test_runs_and_events_are_listed_page_by_page(system: System, ada: Person) -> None:
    started = await as_person(system, ada, "run", "echo", "--input", '{"text": "hello"}', "--thread", "a-thread")
    assert json.loads(started.out) == {"text": "hello"}
    listed = (await as_person(system, ada, "runs", "list", "--json")).document["runs"]
    assert [(run["agent"], run["state"], run["thread_id"]) for run in listed] == [("echo", "SUCCEEDED", "a-thread")]
    run_id = listed[0]["run_id"]
    shown = await as_person(system, ada, "runs", "show", run_id)
    assert run_id in shown.out and '"text": "hello"' in shown.out

    events = [line["event"] for line in (await as_person(system, ada, "events", "--json")).documents]
    assert [event["offset"] for event in events] == list(range(1, len(events) + 1))
    rest = await as_person(system, ada, "events", "--after", events[1]["cursor"], "--json")
    assert [line["event"]["event_id"] for line in rest.documents] == [event["event_id"] for event in events[2:]]
    kinds = await as_person(
        system, ada, "events", "--type", "tool_executing", "--type", "tool_completed", "--run", run_id, "--json"
    )
    assert [line["event"]["type"] for line in kinds.documents] == ["tool_executing", "tool_completed"]
    assert kinds.documents[0]["event"]["payload"]["arguments"] == {"text": "hello"}


async def test_a_run_is_shown_with_what_it_has_taken_of_models_and_what_that_cost(system: System, ada: Person) -> None:
    started = await as_person(system, ada, "runs", "start", "echo", "--input", '{"text": "hello"}', "--wait", "--json")
    run_id = started.documents[0]["run"]["run_id"]
    calls = [
        {"model": "large", "input_tokens": 1000, "output_tokens": 200, "cost_usd": 0.0105},
        {"model": "large", "input_tokens": 500, "output_tokens": 100, "cost_usd": 0.00525},
        {"model": "local", "input_tokens": 7, "output_tokens": 3, "cost_usd": None},
    ]
    database = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:  # as its journal would hold them: no language model is set up here
        await database.executemany(
            "INSERT INTO execution.journal_step (tenant_id, user_id, run_id, step_id, kind, name, input_digest, state, result_json,"
            " error_kind, error_reason, error_message, epoch, retry, create_time)"
            " VALUES ($1, $2, $3, $4, 'MODEL', '', '', 'SUCCEEDED', $5, '', '', '', 1, 0, now())",
            [(ada.tenant_id, ada.user_id, run_id, f"m{number}", json.dumps(call)) for number, call in enumerate(calls)],
        )
    finally:
        await database.close()
    shown = await as_person(system, ada, "runs", "show", run_id)
    assert [line for line in shown.out.splitlines() if line.startswith("model")] == [
        "model     large, calls: 2, tokens: 1500 in, 300 out, $0.015750",
        "model     local, calls: 1, tokens: 7 in, 3 out, $0.000000, calls without a price: 1",
    ]


async def test_another_users_run_is_not_there(system: System, ada: Person, eve: Person) -> None:
    run_id = (await as_person(system, ada, "run", "echo", "--input", '{"text": "mine"}', "--no-follow")).out.strip()
    for arguments in (["runs", "show", run_id], ["runs", "cancel", run_id]):
        refused = await as_person(system, eve, *arguments, "--json")
        assert refused.code == 1
        assert refused.document["error"]["reason"] == "RUN_NOT_FOUND"
        assert "mine" not in refused.out + refused.err
    assert (await as_person(system, eve, "runs", "list", "--json")).document == {"runs": []}
    assert (await as_person(system, eve, "events", "--json")).out == ""
    assert (await as_person(system, eve, "events", "--run", run_id, "--json")).out == ""


async def test_ctrl_c_leaves_the_run_going_and_says_how_to_stop_it(system: System, ada: Person) -> None:
    command = ("run", "sleeper", "--input", '{"seconds": 30}', "--json")
    with running(*command, data_dir=system.data_dir, CARREL_TOKEN=ada.token) as process:
        run_id = json.loads(await next_line(process))["run"]["run_id"]
        assert json.loads(await next_line(process))["event"]["run_id"] == run_id, "it follows"
        process.send_signal(signal.SIGINT)
        left = await ended(process)
    assert left.code == 130
    assert f"carrel runs cancel {run_id}" in left.err.splitlines()[-1]
    shown = await as_person(system, ada, "runs", "show", run_id, "--json")
    assert shown.document["run"]["state"] in ("QUEUED", "RUNNING")
    cancelled = await as_person(system, ada, "runs", "cancel", run_id, "--reason", "enough", "--json")
    assert cancelled.document["run"]["state"] in ("CANCELLING", "CANCELLED")


async def test_events_are_followed_live_until_ctrl_c(system: System, ada: Person) -> None:
    with running("events", "--follow", "--json", data_dir=system.data_dir, CARREL_TOKEN=ada.token) as process:
        started = await as_person(system, ada, "run", "echo", "--input", '{"text": "hello"}', "--no-follow", "--json")
        event = json.loads(await next_line(process))["event"]
        assert event["run_id"] == started.document["run"]["run_id"]
        while not event["final"]:
            event = json.loads(await next_line(process))["event"]
        process.send_signal(signal.SIGINT)
        left = await ended(process)
    assert (left.code, left.out, left.err) == (130, "", "")


async def test_agents_and_tools_are_listed_for_programs_and_for_pipes(system: System, ada: Person) -> None:
    agents = (await as_person(system, ada, "agents", "--json")).document["agents"]
    assert {"supervisor", "echo"} <= {agent["name"] for agent in agents}
    tools = (await as_person(system, ada, "tools")).out.splitlines()
    assert tools[0] == "TOOL\tWHAT IT DOES"
    assert any(line.startswith("sql_query\t") for line in tools)


async def test_each_form_of_a_token_is_good(system: System, ada: Person) -> None:
    who = ("--tenant", ada.tenant_id, "--user", ada.user_id)
    for form in ((), ("--api-key",), ("--lifetime", "60")):
        made = (await carrel("token", *who, *form, data_dir=system.data_dir)).out.strip()
        assert (await carrel("runs", "list", "--json", data_dir=system.data_dir, CARREL_TOKEN=made)).code == 0
    context = (await carrel("token", *who, "--context", "--json", data_dir=system.data_dir)).document["context"]
    signed = user_context_pb2.SignedUserContext.FromString(base64.b64decode(context, validate=True))
    assert decode_context(signed.context).owner == (ada.tenant_id, ada.user_id)


async def test_a_bad_token_is_refused_with_its_reason(system: System) -> None:
    refused = await carrel("agents", "--token", "nonsense", "--json", data_dir=system.data_dir)
    assert refused.code == 1
    assert refused.document["error"]["reason"] == "CREDENTIAL_INVALID"


async def test_doctor_sees_every_service_serving(system: System) -> None:
    report = await carrel("doctor", "--json", data_dir=system.data_dir)
    assert report.code == 0
    levels = {check["name"]: check["level"] for check in report.document["checks"]}
    services = {f"service {name}" for name in ("gateway", "context", "execution", "tools", "events")}
    assert services <= levels.keys() and set(levels.values()) == {"ok"}


async def test_sessions_are_listed_and_ended(system: System, ada: Person) -> None:
    other = await system.person(ada.tenant_id, ada.user_id)
    listed = (await as_person(system, ada, "sessions", "list", "--json")).document["sessions"]
    [own] = [session["session_id"] for session in listed if session["current"]]
    assert (await as_person(system, other, "sessions", "list")).out.count(own) == 1
    assert (await as_person(system, other, "sessions", "end", own)).out == f"{own} is ended.\n"

    async def refused() -> bool:
        answer = await as_person(system, ada, "sessions", "list")
        return answer.code == 1 and "open another terminal" in answer.err

    await eventually(refused, seconds=10)


async def test_the_commands_of_one_terminal_are_one_session(system: System, ada: Person) -> None:
    command = ("sessions", "list", "--tenant", ada.tenant_id, "--user", ada.user_id, "--json")

    def own(answer: Ended) -> str:
        [session] = [session["session_id"] for session in answer.document["sessions"] if session["current"]]
        return str(session)

    first, second = [own(await carrel(*command, data_dir=system.data_dir)) for _ in range(2)]
    with running(*command, data_dir=system.data_dir) as in_another_terminal:
        assert first == second != own(await ended(in_another_terminal))


async def test_a_corpus_comes_back_as_it_was(system: System, ada: Person, tmp_path: Path) -> None:
    assert (await as_person(system, ada, "corpus", "upload", "trace", str(EXAMPLE))).code == 0
    assert (await as_person(system, ada, "corpus", "download", "trace", str(tmp_path / "trace.csv"))).code == 0
    assert (tmp_path / "trace.csv").read_bytes() == EXAMPLE.read_bytes()
    assert (await as_person(system, ada, "corpus", "download", "trace", "-")).out == EXAMPLE.read_text()
    assert (await as_person(system, ada, "corpus", "download", "trace", "-", "--json")).code == 2


async def test_a_run_is_started_repeated_and_answered(system: System, ada: Person) -> None:
    started = await as_person(system, ada, "runs", "start", "echo", "--input", '{"text": "hello"}', "--wait")
    assert (started.code, json.loads(started.out)) == (0, {"text": "hello"})
    [run] = (await as_person(system, ada, "runs", "list", "--state", "succeeded", "--json")).document["runs"]
    again = (await as_person(system, ada, "runs", "repeat", run["run_id"])).out.strip()
    assert (await as_person(system, ada, "runs", "show", again, "--json")).document["run"]["repeats_run_id"] == run[
        "run_id"
    ]
    later = await as_person(system, ada, "runs", "start", "echo", "--at", "2h", "--priority", "5", "--json")
    assert later.document["run"]["priority"] == 5
    cancelled = await as_person(system, ada, "runs", "cancel", later.document["run"]["run_id"], "--wait", "5", "--json")
    assert cancelled.document["run"]["state"] == "CANCELLED"

    asking = (await as_person(system, ada, "runs", "start", "asking", "--input", '{"key": "cli"}')).out.strip()

    async def waits() -> list[dict[str, str]]:
        found: list[dict[str, str]] = (await as_person(system, ada, "approvals", "list", "--json")).document["waits"]
        return found

    [wait] = await eventually(waits)
    assert wait["run_id"] == asking
    assert (
        await as_person(system, ada, "approvals", "approve", wait["wait_id"])
    ).code == 1  # it wants input, no approval
    assert (await as_person(system, ada, "answer", wait["wait_id"], '{"number": 7}')).code == 0
    assert (await as_person(system, ada, "runs", "steps", asking)).code == 0

    async def counted() -> bool:  # written once a second
        return "echo" in (await as_person(system, ada, "runs", "statistics")).out

    await eventually(counted)
    wrong = await as_person(system, ada, "runs", "start", "echo", "--at", "tomorrow")
    assert wrong.code == 2 and "tomorrow is no time" in " ".join(wrong.err.replace("│", "").split())


async def test_schedules_are_made_paused_resumed_and_deleted(system: System, ada: Person) -> None:
    made = await as_person(system, ada, "schedules", "create", "0 7 * * *", "echo", "--zone", "Europe/Vienna", "--json")
    schedule = made.document["schedule"]["schedule_id"]
    assert (await as_person(system, ada, "schedules", "pause", schedule, "--json")).document["schedule"]["paused"]
    assert not (await as_person(system, ada, "schedules", "resume", schedule, "--json")).document["schedule"]["paused"]
    assert schedule in (await as_person(system, ada, "schedules", "list")).out
    assert (await as_person(system, ada, "schedules", "delete", schedule)).out == f"{schedule} is deleted.\n"
