"""`carrel doctor`: what this machine has of what Carrel needs, and what to do about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import Local, local_command

if TYPE_CHECKING:
    from carrel_cli.checkup import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@local_command
async def doctor(
    local: Local, port_base: Annotated[int, typer.Option(min=0, help="Where `carrel up` would put the ports.")] = 7400
) -> int:
    """Looks whether Carrel can run here, and how what runs is doing; exit code 1 when something is in the way."""
    from dataclasses import asdict

    from carrel_cli.checkup import check_up
    from carrel_cli.stack import quiet_logs

    quiet_logs()
    with local.out.waiting("Looking"):
        checks = await check_up(local.data_dir, port_base)
    failed = [check for check in checks if check.level == "fail"]
    local.out.document({"ok": not failed, "checks": [asdict(check) for check in checks]})
    for check in checks:
        _print(local, check)
    if failed:
        local.out.note(f"In the way: {', '.join(check.name for check in failed)}.", style="red")
    return 1 if failed else 0


def _print(local: Local, check: Check) -> None:
    local.out.parts(
        (f"{check.level:<5}", _STYLES[check.level]), (f"{check.name:<18}", "bold"), (check.finding, ""), whole=True
    )
    if check.advice:
        local.out.parts((" " * 23, ""), (check.advice, "yellow"), whole=True)
