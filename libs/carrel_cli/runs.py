"""`carrel run` and `carrel runs ...`: starting a run, following it to its report, looking at those there are."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrel_cli.command import INTERRUPTED, Session, client_command

if TYPE_CHECKING:
    from carrel.client import Run

app = typer.Typer(help="Your runs.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")]


@client_command
async def run(
    session: Session,
    agent: Annotated[str, typer.Argument(help="Its name: see `carrel agents`.")],
    question: Annotated[str, typer.Argument(help="What you want to know.", show_default=False)] = "",
    corpus: Annotated[str, typer.Option(metavar="NAME", help="The corpus it is about.", show_default=False)] = "",
    input: Annotated[
        str, typer.Option(metavar="JSON", help="The input as a JSON object, for agents that take other things.")
    ] = "{}",
    thread: Annotated[str, typer.Option(metavar="THREAD", help="The thread it belongs to.", show_default=False)] = "",
    follow: Annotated[bool, typer.Option(help="Show its events and its result, and wait for them.")] = True,
) -> int | None:
    """Starts a run and follows it to its result; exit code 0 when it succeeded."""
    from carrel_cli.documents import document

    started = await session.client.start_run(agent, read_input(input, question, corpus), thread)
    session.out.document({"run": document(started)})
    session.out.note(f"run {started.run_id} of {agent} is accepted", style="bold")
    if not follow:
        session.out.text(started.run_id)
        return None
    try:
        return await _follow(session, started.run_id)
    except asyncio.CancelledError:
        session.out.note(
            f"The run goes on without you. See it with `carrel runs show {started.run_id}`, "
            f"stop it with `carrel runs cancel {started.run_id}`."
        )
        return INTERRUPTED


@app.command("list")
@client_command
async def list_(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    thread: Annotated[str, typer.Option(metavar="THREAD", help="Only runs of this thread.", show_default=False)] = "",
) -> None:
    """Lists your runs, newest first."""
    from carrel_cli.documents import document, state_name
    from carrel_cli.event_lines import moment

    found = []
    async with aclosing(session.client.list_runs(thread_id=thread, page_size=min(limit, 200))) as stream:
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
    """Shows a run with its input and its result."""
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
        "input": one_line(found.input_json, 300),
    }
    if found.error.reason:
        facts["error"] = _failure(found)
    for name, value in facts.items():
        session.out.text(f"{name:<9} {one_line(value)}")
    if found.result_json:
        session.out.text("")
        print_result(session, found)


@app.command("cancel")
@client_command
async def cancel(
    session: Session,
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why, for its log.", show_default=False)] = "",
) -> None:
    """Asks a run to stop."""
    from carrel_cli.documents import document, state_name

    found = await session.client.cancel_run(run_id, reason)
    session.out.document({"run": document(found)})
    session.out.text(f"{found.run_id} is {state_name(found)}")


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
    from carrel.client import RunState
    from carrel_cli.documents import document, event_document
    from carrel_cli.event_lines import event_parts

    with session.out.waiting("working"):
        async with aclosing(session.client.watch_run(run_id)) as stream:
            async for event in stream:
                session.out.document({"event": event_document(event)})
                session.out.note_parts(*event_parts(event))
        found = await session.client.get_run(run_id)
    session.out.document({"run": document(found)})
    if found.state != RunState.RUN_STATE_SUCCEEDED:
        session.out.note(_failure(found), style="red")
        return 1
    print_result(session, found)
    return 0


def _failure(found: Run) -> str:
    """One sentence."""
    from carrel_cli.documents import state_name

    words = f"The run has not succeeded, it is {state_name(found)}"
    return f"{words}: {found.error.message} [{found.error.reason}]" if found.error.reason else f"{words}."
