"""The agents of the rounds: each does what a crash might lose or double, and returns what it says it has done."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from carrel.agent import JSON, Agent, AgentError, OutcomeUnknown, Retry, RunContext, ToolError

CONSENTED, DENIED = "consented", "denied"
"""The last part of the key of an act that needs its user's consent: what the user says."""


class Asking(Agent):
    """One call of a tool that may be repeated."""

    name: ClassVar = "chaos_asking"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.emit.thinking("I ask.")
        answer = await context.tools.call("echo", text=context.run_id)
        return {"done": [], "echo": answer["text"]}


class Acting(Agent):
    """{"acts": int}: so many calls of a tool that must not be repeated, one after the other, each with a line in the file of effects."""

    name: ClassVar = "chaos_acting"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        done, unknown = [], []
        for number in range(int(input.get("acts", 3))):
            key = f"{context.run_id}/{context.agent}/{input.get('part', 0)}/{number}"
            try:
                await context.tools.call("count", key=key, seconds=0.1)
                done.append(key)
            except ToolError as error:
                if error.reason != "OUTCOME_UNKNOWN":
                    raise
                unknown.append(key)
        return {"done": done, "unknown": unknown}


class Caged(Acting):
    """Acts in a process of its own, which is gone with its worker."""

    name: ClassVar = "chaos_caged"
    isolation: ClassVar = "process"


class Keeping(Agent):
    """{"seconds": float}: adds its run to what its thread keeps, after an act, and stays so long; returns all that is kept then."""

    name: ClassVar = "chaos_keeping"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        acted = await context.agents.run("chaos_acting", {"acts": 1})
        kept = [*(await context.state.get() or []), context.run_id]
        await context.state.set(kept)
        await asyncio.sleep(float(input.get("seconds", 0.0)))
        return {"done": acted["done"], "kept": kept}


class Delegating(Agent):
    """Two sub-agents that act, with a word between them."""

    name: ClassVar = "chaos_delegating"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        first = await context.agents.run("chaos_acting", {"acts": 2, "part": 1})
        await context.emit.thinking("I go on.")
        second = await context.agents.run("chaos_acting", {"acts": 2, "part": 2})
        return {"done": first["done"] + second["done"]}


class Lasting(Agent):
    """{"seconds": float}: works for longer than a lease lasts, and says so all the time."""

    name: ClassVar = "chaos_lasting"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        total = int(float(input.get("seconds", 2.0)) * 10)
        for number in range(1, total + 1):
            await context.emit.progress("lasting", number, total)
            await asyncio.sleep(0.1)
        return {"done": []}


class Stepping(Agent):
    """{"steps": int}: so many steps of its own that must not be done twice, each with a line in the file of effects."""

    name: ClassVar = "chaos_stepping"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        done, unknown = [], []
        drawn = await context.step("draw", _draw)
        for number in range(int(input.get("steps", 3))):
            key = f"{context.run_id}/{context.agent}/{drawn}/{number}"
            try:
                done.append(await context.step(f"act {number}", partial(_act, key), at_most_once=True))
            except OutcomeUnknown:
                unknown.append(key)
        return {"done": done, "unknown": unknown}


class Waiting(Agent):
    """Acts, asks its user, acts again."""

    name: ClassVar = "chaos_waiting"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        first = await context.agents.run("chaos_acting", {"acts": 1, "part": 1})
        answer = await context.wait_for.input("May I go on?", {"type": "boolean"})
        second = await context.agents.run("chaos_stepping", {"steps": 1})
        return {"done": first["done"] + second["done"], "answer": answer}


class Consenting(Agent):
    """{"answers": [bool]}: for each a call that its user must consent to. The key says what the answer will be; an act, if it is done."""

    name: ClassVar = "chaos_consenting"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        done, unknown = [], []
        for number, answer in enumerate(input.get("answers", [True])):
            key = f"{context.run_id}/{number}/{CONSENTED if answer else DENIED}"
            try:
                await context.tools.call("post", key=key, ask=True, after=0.1)
                done.append(key)
            except ToolError as error:
                if error.reason == "OUTCOME_UNKNOWN":
                    unknown.append(key)
                elif error.reason != "APPROVAL_DENIED":
                    raise
        return {"done": done, "unknown": unknown}


class Retrying(Agent):
    """Fails once in a way that may be tried again, after an act that must not be."""

    name: ClassVar = "chaos_retrying"
    retry: ClassVar = Retry(attempts=3, first_seconds=0.2)

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        acted = await context.agents.run("chaos_acting", {"acts": 1})
        await context.step("try", partial(_fail_once, context.run_id))
        return acted


class Everything(Agent):
    """A call that may be repeated, one that may not, steps of either kind, a sub-agent: each kind of statement that a run can need."""

    name: ClassVar = "chaos_everything"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.emit.thinking("I do everything.")
        await context.tools.call("echo", text="hello")
        stepped = await context.agents.run("chaos_stepping", {"steps": 1})
        acted = await context.agents.run("chaos_acting", {"acts": 1})
        return {"done": stepped["done"] + acted["done"]}


class Patient(Agent):
    """Fails once, asks its user for an answer and for a consent, and then lasts until it is cancelled: what `Everything` leaves out."""

    name: ClassVar = "chaos_patient"
    retry: ClassVar = Retry(attempts=3, first_seconds=0.05)

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.step("try", partial(_fail_once, context.run_id))
        await context.wait_for.input("May I go on?", {"type": "boolean"})
        await context.tools.call("post", key=f"{context.run_id}/{CONSENTED}", ask=True)
        await context.emit.thinking("I last.")
        await asyncio.Event().wait()


async def _draw() -> JSON:
    """Another value each time: if the step were done again, what follows would differ from what it was."""
    return secrets.token_hex(4)


async def _act(key: str) -> JSON:
    await asyncio.to_thread(_add_line, Path(os.environ["CARREL_TEST_EFFECTS"]), key)
    await asyncio.sleep(0.05)
    return key


def _add_line(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


async def _fail_once(run_id: str) -> JSON:
    if await asyncio.to_thread(_first_time, Path(f"{os.environ['CARREL_TEST_EFFECTS']}.{run_id}")):
        raise AgentError("NOT_YET", "Try again.", retryable=True)
    return True


def _first_time(mark: Path) -> bool:
    first = not mark.exists()
    mark.touch()
    return first


AGENTS = (
    Asking,
    Acting,
    Caged,
    Keeping,
    Delegating,
    Lasting,
    Stepping,
    Waiting,
    Consenting,
    Retrying,
    Everything,
    Patient,
)
