"""Agents that do what an agent must not: in the loop beside others, and in processes of their own. {"does": what, ...} says what."""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from carrel.agent import JSON, Agent, RunContext


def _read(file: str) -> str:
    return Path(file).read_text(errors="replace")


def _write(file: str, text: str) -> None:
    Path(file).write_text(text)


class Rogue(Agent):
    """In the loop."""

    name = "rogue"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.emit.thinking("I begin.")
        return await getattr(self, f"_{input['does']}")(context, input)

    async def _nothing(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return {"environment": sorted(os.environ), "folder": os.getcwd(), "process": os.getpid()}

    async def _spin(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        while True:
            pass

    async def _spin_in_a_task(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await asyncio.gather(self._spin(context, input))

    async def _spin_and_swallow(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        while True:
            try:
                while True:
                    pass
            except BaseException:
                continue

    async def _block(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        time.sleep(input["seconds"])  # noqa: ASYNC251

    async def _keep_the_interpreter(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return re.match(r"(a+)+$", "a" * 40 + "b")  # takes for ever, and lets no other thread run

    async def _leak(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        kept = []
        while True:
            kept.append(bytearray(8 * 1024 * 1024))

    async def _leak_shared(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        kept = []
        while True:
            kept.append(mmap.mmap(-1, 8 * 1024 * 1024))
            kept[-1].write(bytes(8 * 1024 * 1024))

    async def _recurse(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return await self._recurse(context, input)

    async def _return_much(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return "x" * 100_000_000

    async def _exit(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        sys.exit(3)

    async def _interrupt(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        raise KeyboardInterrupt

    async def _exit_in_a_task(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        task = asyncio.create_task(self._exit(context, input))
        await asyncio.sleep(60)
        return await task

    async def _exit_at_once(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        os._exit(7)

    async def _kill_itself(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)

    async def _fork(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        if os.fork() == 0:
            time.sleep(600)  # noqa: ASYNC251
        return "forked"

    async def _fork_twice(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """What it leaves has lost its parent, and its session."""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)  # noqa: ASYNC251
            os._exit(0)
        os.wait()  # noqa: ASYNC222
        return "forked twice"

    async def _fork_without_end(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        while True:
            os.fork()

    async def _leak_in_many(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """Each of its processes takes less than one may."""
        for _ in range(4):
            if os.fork() == 0:
                kept = bytearray(input["mb"] * 1024 * 1024)
                time.sleep(600)  # noqa: ASYNC251
                del kept
        await asyncio.sleep(600)

    async def _kill_its_keeper(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await self._fork_twice(context, input)
        os.kill(os.getppid(), signal.SIGKILL)
        await asyncio.sleep(600)

    async def _swallow_cancellation(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        while True:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    async def _sleep(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await asyncio.sleep(input.get("seconds", 600))

    async def _leave_a_task(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        async def later() -> None:
            await asyncio.sleep(0.2)
            _write(input["file"], "I am still here")

        self.task = asyncio.create_task(later())
        return "left"

    async def _keep_its_context(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        self.kept = [context]
        return "kept"

    async def _change_its_class(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        type(self).kept = context  # type: ignore[attr-defined]

    async def _read(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return _read(input["file"])

    async def _connect(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        with socket.create_connection(("127.0.0.1", input["port"]), timeout=5):
            return "connected"

    async def _kill(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        os.kill(input["process"], signal.SIGKILL)
        return "killed"

    async def _try(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """The error that {"what"} ends in."""
        try:
            return await getattr(self, f"_{input['what']}")(context, input)
        except OSError as error:
            return type(error).__name__

    async def _use_everything(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        """Each method of the context once."""

        async def work() -> JSON:
            return (await context.tools.call("echo", text="within a step"))["text"]

        await context.emit.progress("half", 1, 2)
        await context.emit.custom("mine", {"n": 1})
        both = await asyncio.gather(*(context.tools.call("echo", text=text) for text in ("one", "two")))
        await context.state.set({"seen": True})
        return {
            "texts": [answer["text"] for answer in both],
            "step": await context.step("work", work),
            "state": await context.state.get(),
            "chance": context.random.random(),
            "time": await context.clock.now(),
            "below": await context.agents.run("counting", {"calls": 1}),
        }


class Caged(Rogue):
    """In a process of its own."""

    name = "caged"
    isolation = "process"
    memory_mb = 128


class Spinner(Rogue):
    """For a test that isolates it."""

    name = "spinner"


class Weaver(Rogue):
    """For a test that isolates it."""

    name = "weaver"


class Stutterer(Rogue):
    """For a test that isolates it."""

    name = "stutterer"


class Swallower(Rogue):
    """For a test that isolates it."""

    name = "swallower"


class Blocker(Rogue):
    """For a test that isolates it."""

    name = "blocker"


class Hog(Rogue):
    """For a test that isolates it."""

    name = "hog"


AGENTS = (Rogue, Caged, Spinner, Weaver, Stutterer, Swallower, Blocker, Hog)
