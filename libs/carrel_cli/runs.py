"""`carrel run` and `carrel runs ...`: starting a run, following it to its report, looking at those there are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrel_cli.command import INTERRUPTED, Session, client_command
from carrel_cli.values import enum_value, moment_from, span_from

if TYPE_CHECKING:
    from carrel.api.runs.v1.run_pb2 import ModelUsage
    from carrel.client import Run

app = typer.Typer(help="Your runs.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")]


Agent = Annotated[str, typer.Argument(help="Its name: see `carrel agents`.")]
Question = Annotated[str, typer.Argument(help="What you want to know.", show_default=False)]
CorpusName = Annotated[
    str, typer.Option("--corpus", metavar="NAME", help="The corpus it is about.", show_default=False)
]
Input = Annotated[
    str, typer.Option("--input", metavar="JSON", help="The input as a JSON object, for agents that take other things.")
]
ThreadId = Annotated[
    str, typer.Option("--thread", metavar="THREAD", help="The thread it belongs to.", show_default=False)
]
Busy = Annotated[str, typer.Option("--busy", help="If its thread has a run: enqueue, reject, interrupt or rollback.")]
Priority = Annotated[int, typer.Option("--priority", min=-100, max=100, help="Higher ones of yours begin first.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="Not before: 2026-11-21T07:30+01:00, or 90s, 10m, 2h from now."),
]
Deadline = Annotated[str | None, typer.Option("--deadline", metavar="TIME", help="Ended then, whatever it does.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="SPAN", help="How long it may work: 90s, 10m, 2h.")]
EndsWithMe = Annotated[bool, typer.Option("--ends-with-me", help="Cancelled when nobody follows it any more.")]


@client_command
async def run(
    session: Session,
    agent: Agent,
    question: Question = "",
    corpus: CorpusName = "",
    input: Input = "{}",
    thread: ThreadId = "",
    busy: Busy = "enqueue",
    priority: Priority = 0,
    at: At = None,
    deadline: Deadline = None,
    timeout: Timeout = None,
    ends_with_me: EndsWithMe = False,
    follow: Annotated[bool, typer.Option(help="Show its events and its result, and wait for them.")] = True,
) -> int | None:
    """Starts a run and follows it to its result; exit code 0 when it succeeded."""
    options = start_options(busy, priority, at, deadline, timeout, ends_with_me)
    started = await _start(session, agent, read_input(input, question, corpus), thread, options)
    if not follow:
        session.out.text(started.run_id)
        return None
    return await _unless_left(session, started.run_id, _follow(session, started.run_id))


@app.command("start")
@client_command
async def start(
    session: Session,
    agent: Agent,
    question: Question = "",
    corpus: CorpusName = "",
    input: Input = "{}",
    thread: ThreadId = "",
    busy: Busy = "enqueue",
    priority: Priority = 0,
    at: At = None,
    deadline: Deadline = None,
    timeout: Timeout = None,
    ends_with_me: EndsWithMe = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result, without its events.")] = False,
) -> int | None:
    """Starts a run and says its id; with --wait, exit code 0 when it succeeded."""
    options = start_options(busy, priority, at, deadline, timeout, ends_with_me)
    started = await _start(session, agent, read_input(input, question, corpus), thread, options)
    if not wait:
        session.out.text(started.run_id)
        return None
    return await _unless_left(session, started.run_id, _result(session, started.run_id))


async def _start(session: Session, agent: str, input: dict[str, Any], thread: str, options: dict[str, Any]) -> Run:
    from carrel_cli.documents import document

    started = await session.client.start_run(agent, input, thread, **options)
    session.out.document({"run": document(started)})
    session.out.note(f"run {started.run_id} of {agent} is accepted", style="bold")
    return started


async def _unless_left(session: Session, run_id: str, work: Coroutine[Any, Any, int]) -> int:
    """The exit code of the work; of Ctrl-C, with a word about the run, which does not end by it."""
    try:
        return await work
    except asyncio.CancelledError:
        session.out.note(
            f"The run goes on without you. See it with `carrel runs show {run_id}`, "
            f"stop it with `carrel runs cancel {run_id}`."
        )
        return INTERRUPTED


@app.command("list")
@client_command
async def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    thread: Annotated[str, typer.Option(metavar="THREAD", help="Only runs of this thread.", show_default=False)] = "",
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="Only these: queued, waiting, dead and so on.", show_default=False),
    ] = None,
) -> None:
    """Lists your runs, newest first."""
    from carrel.client import RunState
    from carrel_cli.documents import document, state_name
    from carrel_cli.event_lines import moment

    states = [enum_value(RunState, "RUN_STATE", name, "--state") for name in state or ()]
    found = []
    runs = session.client.list_runs(states=states, thread_id=thread, page_size=min(limit, 200))
    async with aclosing(runs) as stream:
        async for one in stream:
            found.append(one)
            if len(found) == limit:
                break
    session.out.document({"runs": [document(one) for one in found]})
    rows = [(one.run_id, one.agent, state_name(one), moment(one.create_time)) for one in found]
    session.out.table(["RUN", "AGENT", "STATE", "ACCEPTED"], rows, "No runs yet: start one with `carrel run`.")


@app.command("show")
@client_command
async def show(session: Session, run_id: RunId) -> None:
    """Shows a run with its input, its result, and what it has taken of language models."""
    from carrel_cli.documents import document, state_name
    from carrel_cli.event_lines import moment
    from carrel_cli.output import one_line

    found = await session.client.get_run(run_id)
    session.out.document({"run": document(found)})
    times = {"accepted": found.create_time, "started": found.start_time, "finished": found.finish_time}
    facts = {
        "run": found.run_id,
        "agent": found.agent,
        "state": state_name(found),
        "thread": found.thread_id,
        "attempt": str(found.attempt),
        **{name: moment(time) for name, time in times.items() if time.seconds},
        "retries": str(found.retries or ""),
        "repeats": found.repeats_run_id,
        "schedule": found.schedule_id,
        "waits for": " ".join(found.wait_ids),
        "input": one_line(found.input_json, 300),
    }
    if found.error.reason:
        facts["error"] = _failure(found)
    for name, value in facts.items():
        if value:
            session.out.text(f"{name:<9} {one_line(value)}")
    for usage in found.model_usage:
        session.out.text(f"{'model':<9} {one_line(_usage_words(usage))}")
    if found.result_json:
        session.out.text("")
        print_result(session, found)


@app.command("cancel")
@client_command
async def cancel(
    session: Session,
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why, for its log.", show_default=False)] = "",
    wait: Annotated[int, typer.Option(min=0, max=30, help="Wait so many seconds until its work has stopped.")] = 0,
) -> None:
    """Asks a run to stop; with --wait it says what has stopped and what has not."""
    from carrel_cli.documents import document, state_name

    done = await session.client.cancel_run_and_wait(run_id, reason, timedelta(seconds=wait))
    session.out.document(document(done))
    session.out.text(f"{done.run.run_id} is {state_name(done.run)}")
    for word, parts in (("stopped", done.stopped), ("not stopped", done.not_stopped)):
        for part in parts:
            session.out.text(f"{word}: {part.kind} {part.name} {part.step_id} {part.message}".rstrip())


@app.command("repeat")
@client_command
async def repeat(session: Session, run_id: RunId) -> None:
    """Starts a run that has ended once more, with the same input."""
    from carrel_cli.documents import document

    started = await session.client.repeat_run(run_id)
    session.out.document({"run": document(started)})
    session.out.text(started.run_id)


@app.command("steps")
@client_command
async def steps(session: Session, run_id: RunId) -> None:
    """Lists the journal of a run: what is in it is not done again."""
    from carrel_cli.documents import document

    found = [document(step) async for step in session.client.list_steps(run_id, page_size=200)]
    session.out.document({"steps": found})
    rows = [(step["step_id"], step["kind"], step["name"], step["state"], str(step["attempt"])) for step in found]
    session.out.table(["STEP", "KIND", "NAME", "STATE", "ATTEMPT"], rows, "The journal of the run has no steps.")


@app.command("statistics")
@client_command
async def statistics(
    session: Session,
    days: Annotated[int, typer.Option(min=1, max=90, help="Of the last days.")] = 30,
    everybody: Annotated[bool, typer.Option("--everybody", help="Of all users, for administrators.")] = False,
) -> None:
    """Shows how your runs ended, by agent, and how long they took."""
    from carrel_cli.documents import document

    client = session.client
    found = await (client.admin.get_overall_run_statistics(days) if everybody else client.get_run_statistics(days))
    session.out.document({"statistics": [document(one) for one in found]})
    rows = [
        (
            one.agent or "all",
            *(str(number) for number in (one.succeeded, one.failed, one.cancelled, one.timed_out, one.dead)),
            f"{one.success_rate:.0%}",
            *(f"{span.ToMilliseconds() / 1e3:.2f} s" for span in (one.p50_duration, one.p99_duration)),
        )
        for one in found
    ]
    columns = ["AGENT", "SUCCEEDED", "FAILED", "CANCELLED", "TIMED OUT", "DEAD", "RATE", "P50", "P99"]
    session.out.table(columns, rows, "No runs have ended yet.")


def start_options(
    busy: str, priority: int, at: str | None, deadline: str | None, timeout: str | None, ends_with_me: bool
) -> dict[str, Any]:
    """What `start_run` takes beside agent, input and thread."""
    from carrel.client import BusyThread, OnDisconnect

    ending = OnDisconnect.ON_DISCONNECT_CANCEL if ends_with_me else OnDisconnect.ON_DISCONNECT_UNSPECIFIED
    return {
        "busy_thread": enum_value(BusyThread, "BUSY_THREAD", busy, "--busy"),
        "priority": priority,
        "earliest_start_time": moment_from(at, "--at"),
        "deadline": moment_from(deadline, "--deadline"),
        "timeout": span_from(timeout, "--timeout"),
        "on_disconnect": ending,
    }


def read_input(text: str, question: str, corpus: str) -> dict[str, Any]:
    """The input of a run: the JSON object, with the question and the corpus where they are given."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"this is no JSON ({error}).", param_hint="'--input'") from None
    if not isinstance(given, dict):
        raise typer.BadParameter('the input is a JSON object, such as \'{"text": "hello"}\'.', param_hint="'--input'")
    named = {"question": question, "corpus": corpus}
    return given | {name: value for name, value in named.items() if value}


def print_result(session: Session, found: Run) -> None:
    """What a run has brought: its report, or its result as JSON where it is no report."""
    from carrel_cli.documents import parsed

    result = parsed(found.result_json)
    text = result.get("markdown") if isinstance(result, dict) else None
    if isinstance(text, str):
        session.out.markdown(text)
    else:
        session.out.text(json.dumps(result, ensure_ascii=False, indent=2))


async def _follow(session: Session, run_id: str) -> int:
    """The events until the final one, then the result; the exit code."""
    from carrel_cli.documents import event_document
    from carrel_cli.event_lines import event_parts

    with session.out.waiting("working"):
        async with aclosing(session.client.watch_run(run_id)) as stream:
            async for event in stream:
                session.out.document({"event": event_document(event)})
                session.out.note_parts(*event_parts(event))
    return await _result(session, run_id)


async def _result(session: Session, run_id: str) -> int:
    """The result of a run, once there is one; the exit code."""
    from carrel.client import RunState
    from carrel_cli.documents import document

    with session.out.waiting("working"):
        found = await session.client.wait_for_run(run_id)
    session.out.document({"run": document(found)})
    if found.state != RunState.RUN_STATE_SUCCEEDED:
        session.out.note(_failure(found), style="red")
        return 1
    print_result(session, found)
    return 0


def _usage_words(usage: ModelUsage) -> str:
    """What a run has taken of one model: calls, tokens, and what they cost as far as that is known."""
    cost = f"${usage.cost_usd:.6f}"
    if usage.calls_without_price:
        cost += f", calls without a price: {usage.calls_without_price}"
    return f"{usage.model}, calls: {usage.calls}, tokens: {usage.input_tokens} in, {usage.output_tokens} out, {cost}"


def _failure(found: Run) -> str:
    """One sentence."""
    from carrel_cli.documents import state_name

    words = f"The run has not succeeded, it is {state_name(found)}"
    return f"{words}: {found.error.message} [{found.error.reason}]" if found.error.reason else f"{words}."
