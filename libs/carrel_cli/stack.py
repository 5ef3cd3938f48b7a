"""`carrel up` and `carrel down`: the whole system on this machine, in the foreground of one terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import INTERRUPTED, Local, local_command

if TYPE_CHECKING:
    from carrel_chassis.stack import Stack

_PURPOSES = {
    "gateway": "gRPC, for clients",
    "gateway_http": "HTTP and SSE",
    "context": "who asks, and what they may do",
    "execution": "runs",
    "tools": "tool calls and corpora",
    "events": "the log of each user",
    "postgres": "the truth",
    "nats": "wake-ups",
}


@local_command
async def up(
    local: Local,
    port_base: Annotated[int, typer.Option(min=0, help="Where the ports begin; 0 takes free ones.")] = 7400,
    postgres_url: Annotated[
        str | None, typer.Option(help="An external PostgreSQL, as a role that may create roles and databases.")
    ] = None,
    nats_url: Annotated[str | None, typer.Option(help="An external NATS server.")] = None,
    peer_tls: Annotated[bool, typer.Option("--peer-tls", help="The services speak TLS with each other.")] = False,
) -> int | None:
    """Starts the whole system on this machine; it runs until Ctrl-C."""
    from carrel_chassis.stack import Stack, StackSettings
    from carrel_cli.signals import Stopped, stop_signals, unless

    quiet_logs()
    settings = StackSettings(
        local.data_dir, port_base=port_base, postgres_url=postgres_url, nats_url=nats_url, peer_tls=peer_tls
    )
    stack = Stack(settings)
    stack.on_exit = Deaths(local, stack).report
    with stop_signals() as asked:
        try:
            await unless(asked, start(local, stack))
            _announce(local, stack)
            await asked.wait()
            return None
        except Stopped:
            return INTERRUPTED
        finally:
            if asked.is_set():
                local.out.note("Stopping.")
            await stack.stop()
            if asked.is_set():
                local.out.note(f"Everything is stopped; the data stays in {local.data_dir}.")


@local_command
async def down(local: Local) -> None:
    """Stops the system that runs on the data folder."""
    from carrel_chassis.stack import stop_stack

    with local.out.waiting("Stopping"):
        stopped = await asyncio.to_thread(stop_stack, local.data_dir) if local.data_dir.is_dir() else False
    local.out.document({"stopped": stopped, "data_dir": str(local.data_dir)})
    local.out.text(f"Stopped what ran on {local.data_dir}." if stopped else f"Nothing runs on {local.data_dir}.")


async def start(local: Local, stack: Stack) -> None:
    """Starts the system and waits until all of it serves; the stack is stopped by the caller, whatever happens."""
    out = local.out
    began = time.monotonic()
    with out.waiting("Starting PostgreSQL and NATS; the first time takes a few seconds longer"):
        await stack.start()
    out.note(f"PostgreSQL, NATS and {len(stack.pids()) - engines(stack)} services are started, {_since(began)}.")
    with out.waiting("Waiting until every service says that it serves"):
        await stack.ready()
    out.note(f"Everything serves, {_since(began)}.")


def engines(stack: Stack) -> int:
    """How many of the engines are ours to run."""
    return sum(name in stack.pids() for name in ("postgres", "nats"))


def quiet_logs() -> None:
    """The launcher's own log lines say in its words what the commands say in theirs."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class Deaths:
    """Says which child died, and when it is back."""

    def __init__(self, local: Local, stack: Stack) -> None:
        self._out = local.out
        self._stack = stack
        self._watching: set[asyncio.Task[None]] = set()

    def report(self, name: str, return_code: int) -> None:
        """For Stack.on_exit, which calls in the loop's own thread."""
        self._out.note(f"{name} died ({how_it_ended(return_code)}); it is being started again.", style="yellow")
        task = asyncio.ensure_future(self._until_back(name))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _until_back(self, name: str) -> None:
        from carrel_chassis.stack.health import until_serving

        began = time.monotonic()
        # A child that is started again tells nobody.
        while name not in self._stack.pids():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if name not in ("postgres", "nats"):
            await until_serving(self._stack.addresses[name], self._stack.service_environment(name), lambda: None)
        self._out.note(f"{name} is back after {time.monotonic() - began:.1f} s.")


def how_it_ended(return_code: int) -> str:
    """An exit code, or the name of the signal."""
    if return_code >= 0:
        return f"exit code {return_code}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-return_code, f"signal {-return_code}")


def _announce(local: Local, stack: Stack) -> None:
    from carrel_cli.access import is_default

    out, addresses = local.out, stack.addresses
    out.document({"addresses": dict(addresses), "data_dir": str(local.data_dir), "pid": os.getpid()})
    rows = [(name, _shown(name, addresses[name]), purpose) for name, purpose in _PURPOSES.items() if name in addresses]
    metrics = [
        (name, f"http://{address}/metrics", "metrics") for name, address in sorted(addresses.items()) if "." in name
    ]
    out.table(["NAME", "ADDRESS", "WHAT"], rows + metrics, "")
    if engines(stack):
        out.note("For development: PostgreSQL and NATS run inside, and whoever reads the data folder can be anybody.")
    folder = "" if is_default(local.data_dir) else f" --data-dir {local.data_dir}"
    out.note("Try, in another terminal:")
    out.note(f'  carrel run echo --tenant acme --user ada --input \'{{"text": "hello"}}\'{folder}', style="bold")
    out.note("Ctrl-C stops everything.")


def _shown(name: str, address: str) -> str:
    return f"http://{address}" if name == "gateway_http" else address


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
