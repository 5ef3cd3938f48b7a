"""`carrel demo`: the play with its beginning and end on a terminal, and its exit code."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import INTERRUPTED, output_command
from carrel_cli.output import Output

if TYPE_CHECKING:
    from carrel_cli.demo.crash_play import CrashPlay
    from carrel_cli.demo.play import Play


class Scene(StrEnum):
    """What is shown."""

    USERS = "users"
    CRASH = "crash"


@output_command
async def demo(
    out: Output,
    scene: Annotated[
        Scene, typer.Argument(help="users: two users at once. crash: a worker is killed in the middle of a run.")
    ] = Scene.USERS,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A usage trace as CSV for ada; else a generated one.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data folder, for `carrel up --data-dir`.")] = False,
) -> int:
    """Two users of two tenants do the main job at once; what each received is checked; nothing is left.

    With `crash`, a worker is killed between the effect of a tool and its answer: the run goes on, and the effect happened once.
    """
    play = _of_crash(out, data) if scene is Scene.CRASH else _of_users(out, data)

    from carrel_cli.signals import Stopped, stop_signals, unless
    from carrel_cli.stack import quiet_logs

    quiet_logs()
    with stop_signals() as asked:
        try:
            await unless(asked, play.perform())
        except Stopped:
            out.note("Stopping before the end.")
            return INTERRUPTED
        finally:
            left = await _clear(play, keep=keep)
    return _conclude(play, left)


def _of_users(out: Output, data: Path | None) -> Play:
    from carrel_cli.demo.trace_file import generated_example, read_trace, shipped_example

    # Before anything is loaded or started: a bad file is refused at once.
    traces = (read_trace(data) if data else generated_example(), shipped_example())

    from carrel_cli.demo.play import Play
    from carrel_cli.demo.stage import Stage

    return Play(out, Stage(), traces)


def _of_crash(out: Output, data: Path | None) -> CrashPlay:
    if data is not None:
        raise typer.BadParameter("the crash demo takes no trace", param_hint="--data")

    from carrel_cli.demo.crash_play import CrashPlay, crash_stage

    return CrashPlay(out, crash_stage())


async def _clear(play: Play | CrashPlay, *, keep: bool) -> list[str]:
    out, folder = play.out, play.stage.folder
    with play.timed("stop"), out.waiting("Stopping everything"):
        left = await play.stage.clear(keep=keep)
    if left:
        out.note(f"Left behind: {', '.join(left)}.", style="bold red")
    elif keep:
        out.note(f"All of {play.stage.counts} are gone. The data is kept: carrel up --data-dir {folder}")
    else:
        out.note(f"Nothing is left: {play.stage.counts} are gone, and so is {folder}.")
    return left


def _conclude(play: Play | CrashPlay, left: list[str]) -> int:
    failed = [verdict for verdict in play.verdicts if verdict.passed is False]
    passed = bool(play.verdicts) and not failed and not left
    result = {
        "passed": passed,
        "checks": [asdict(verdict) for verdict in play.verdicts],
        **play.told(),
        "seconds": {part: round(seconds, 3) for part, seconds in play.seconds.items()},
        "left": left,
    }
    play.out.document({"demo": result})
    took = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in play.seconds.items())
    play.out.note(f"It took: {took}.")
    made = sum(verdict.passed is not None for verdict in play.verdicts)
    if passed:
        play.out.note(f"All {made} checks passed.", style="bold green")
    else:
        play.out.note(f"{len(failed)} of {made} checks failed.", style="bold red")
    return 0 if passed else 1
