"""`carrel schedules ...`: runs that begin by the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import Session, client_command

if TYPE_CHECKING:
    from carrel.client import Schedule

app = typer.Typer(help="Runs that begin by the clock.", no_args_is_help=True)

ScheduleId = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its id.")]


@app.command("create")
@client_command
async def create(
    session: Session,
    cron: Annotated[str, typer.Argument(help='Five fields, as "30 7 * * MON-FRI".')],
    agent: Annotated[str, typer.Argument(help="Its name: see `carrel agents`.")],
    question: Annotated[str, typer.Argument(help="What you want to know each time.", show_default=False)] = "",
    corpus: Annotated[str, typer.Option(metavar="NAME", help="The corpus it is about.", show_default=False)] = "",
    input: Annotated[str, typer.Option(metavar="JSON", help="The input as a JSON object.")] = "{}",
    zone: Annotated[str, typer.Option(metavar="ZONE", help="As Europe/Vienna.")] = "UTC",
    thread: Annotated[str, typer.Option(metavar="THREAD", help="The thread of its runs.", show_default=False)] = "",
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Of its runs.")] = 0,
) -> None:
    """Starts a run at each time that the five fields say."""
    from carrel_cli.runs import read_input

    given = read_input(input, question, corpus)
    made = await session.client.create_schedule(cron, agent, given, time_zone=zone, thread_id=thread, priority=priority)
    _show(session, made)


@app.command("list")
@client_command
async def list_(session: Session) -> None:
    """Lists your schedules, newest first."""
    from carrel_cli.documents import document
    from carrel_cli.event_lines import moment

    found = [schedule async for schedule in session.client.list_schedules(page_size=200)]
    session.out.document({"schedules": [document(schedule) for schedule in found]})
    rows = [
        (
            one.schedule_id,
            f"{one.cron} {one.time_zone}",
            one.agent,
            moment(one.next_time) if one.HasField("next_time") else "paused",
            one.last_error or one.last_run_id,
        )
        for one in found
    ]
    empty = "No schedules yet: make one with `carrel schedules create`."
    session.out.table(["SCHEDULE", "WHEN", "AGENT", "NEXT", "LAST"], rows, empty)


@app.command("show")
@client_command
async def show(session: Session, schedule: ScheduleId) -> None:
    """Shows a schedule."""
    _show(session, await session.client.get_schedule(schedule))


@app.command("pause")
@client_command
async def pause(session: Session, schedule: ScheduleId) -> None:
    """Starts nothing until it is resumed."""
    _show(session, await session.client.pause_schedule(schedule))


@app.command("resume")
@client_command
async def resume(session: Session, schedule: ScheduleId) -> None:
    """Lets a paused schedule go on from now."""
    _show(session, await session.client.pause_schedule(schedule, paused=False))


@app.command("delete")
@client_command
async def delete(session: Session, schedule: ScheduleId) -> None:
    """Deletes a schedule; what it has started goes on."""
    await session.client.delete_schedule(schedule)
    session.out.document({"deleted": schedule})
    session.out.text(f"{schedule} is deleted.")


def _show(session: Session, schedule: Schedule) -> None:
    from carrel_cli.documents import document
    from carrel_cli.event_lines import moment

    session.out.document({"schedule": document(schedule)})
    when = f"next {moment(schedule.next_time)}" if schedule.HasField("next_time") else "paused"
    session.out.text(f"{schedule.schedule_id}\t{schedule.agent}\t{schedule.cron}\t{when}")
