"""Agents for tests of the journal and of waiting: what they do can be counted, and where they stop can be chosen."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from carrel.agent import JSON, Agent, AgentError, OutcomeUnknown, Retry, RunContext, ToolError


def effect(key: str) -> None:
    """Something in the world that can be counted: a line in the file CARREL_TEST_EFFECTS."""
    with Path(os.environ["CARREL_TEST_EFFECTS"]).open("a") as file:
        file.write(f"{key}\n")


def effects(key: str) -> int:
    """How often it has happened."""
    return Path(os.environ["CARREL_TEST_EFFECTS"]).read_text().split().count(key)


def first_time(marker: str) -> bool:
    """Whether nobody has asked this of the file before."""
    path = Path(marker)
    known = path.exists()
    path.touch()
    return not known


class Journaling(Agent):
    """Input {"key"}: one of each kind of step, a pause of {"seconds"}, then says what all of them have returned."""

    name = "journaling"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        key = input["key"]

        async def work() -> JSON:
            effect(f"{key}-step")
            return os.urandom(8).hex()

        async def fails() -> JSON:
            effect(f"{key}-failure")
            raise AgentError("NOT_TODAY", "Try it tomorrow.")

        found = {
            "time": await context.clock.now(),
            "chance": context.random.random(),
            "step": await context.step("work", work),
        }
        try:
            await context.step("fails", fails)
        except AgentError as error:
            found["failure"] = error.reason
        found["agent"] = await context.agents.run("effecting", {"key": f"{key}-agent"})
        found["tool"] = await context.tools.call("count", key=f"{key}-tool")
        await context.emit.thinking("I have done it all.")
        if not input.get("seconds"):
            return found
        await asyncio.sleep(input["seconds"])
        return {**found, "later": await context.clock.now()}


class Effecting(Agent):
    """Input {"key"}: has an effect that no journal knows, and returns what nobody can foresee."""

    name = "effecting"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        effect(input["key"])
        return os.urandom(8).hex()


class OnceOnly(Agent):
    """Input {"key", "seconds"}: a step that must not be repeated, which takes so long after its effect."""

    name = "once_only"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        async def work() -> JSON:
            effect(input["key"])
            await asyncio.sleep(input["seconds"])
            return "done"

        try:
            return await context.step("work", work, at_most_once=True)
        except OutcomeUnknown as unknown:
            return {"unknown": unknown.reason}


class Fickle(Agent):
    """Asks for something else in its second attempt, as {"kind"} says; {"marker"} is a file that tells it which one this is."""

    name = "fickle"
    version = "7"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        again = not first_time(input["marker"])

        async def work() -> JSON:
            return 1

        try:
            match input["kind"], again:
                case ("name", _):
                    await context.step("second" if again else "first", work)
                case ("kind", True):
                    await context.agents.run("effecting", {"key": "fickle"})
                case ("kind", False):
                    await context.step("first", work)
                case ("input", _):
                    await context.agents.run("effecting", {"key": f"fickle-{again}"})
                    await context.tools.call("echo", text="so that it is written")
                case ("tool", _):
                    await context.tools.call("echo", text=str(again))
        except Exception:
            pass  # an agent that would rather go on
        await asyncio.sleep(0.0 if again else 60.0)
        return "never"


_NUMBER = {
    "type": "object",
    "properties": {"number": {"type": "integer"}},
    "required": ["number"],
    "additionalProperties": False,
}


class Asking(Agent):
    """Input {"timeout"?, "at_once"?}: asks for a number, does a step before and after, and says what it was told."""

    name = "asking"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        before = await context.agents.run("effecting", {"key": f"{input.get('key', 'asking')}-before"})
        asked = context.wait_for.input("Which number?", _NUMBER, timeout=input.get("timeout"))
        if input.get("at_once"):
            answers = await asyncio.gather(asked, context.wait_for.input("And which word?"))
            return {"before": before, "answers": list(answers)}
        answer = await asked
        await context.emit.progress(f"I was told {answer['number']}.")
        return {"before": before, "answer": answer["number"]}


class AskingApart(Asking):
    """The same from a process of its own."""

    name = "asking_apart"
    isolation = "process"


class Trying(Agent):
    """Input {"key", "failures", "reason"?}: fails so often after a step that succeeds, then succeeds."""

    name = "trying"
    retry = Retry(attempts=3, first_seconds=0.05, reasons=frozenset({"NOT_YET"}))

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        async def work() -> JSON:
            effect(f"{input['key']}-good")
            return os.urandom(4).hex()

        async def unsure() -> JSON:
            effect(f"{input['key']}-bad")
            done = effects(f"{input['key']}-bad")
            if done <= input["failures"]:
                raise AgentError(input.get("reason", "NOT_YET"), "A little later, perhaps.")
            return done

        return {"good": await context.step("good", work), "bad": await context.step("unsure", unsure)}


class Insisting(Agent):
    """Input {"key"}: calls a tool that has an effect, then one that breaks, as often as it is let."""

    name = "insisting"
    retry = Retry(attempts=3, first_seconds=0.05)

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.tools.call("count", key=input["key"])
        return await context.tools.call("crash")


class Remembering(Agent):
    """Adds {"word"} to what its thread keeps, and returns all of it; then fails or waits where {"then"} says so."""

    name = "remembering"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        words = [*(await context.state.get() or []), input["word"]]
        await context.state.set(words)
        match input.get("then"):
            case "fail":
                raise AgentError("NOT_TODAY", "Try it tomorrow.")
            case "sleep":
                await asyncio.sleep(60.0)
        return await context.state.get()


class Consenting(Agent):
    """Input {"tool", "arguments"}: calls a tool that needs its user's consent, and says what it came to."""

    name = "consenting"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        try:
            return {"result": await context.tools.call(input["tool"], **input.get("arguments", {}))}
        except ToolError as error:
            return {"refused": error.reason}


class Busy(Agent):
    """Calls a tool that takes long, in a task of its own, beside a sub-agent that sleeps; swallows its own cancellation if asked."""

    name = "busy"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        apart = asyncio.create_task(context.tools.call("sleep", seconds=60))
        try:
            return await context.agents.run("sleeper", {"seconds": 60})
        finally:
            apart.add_done_callback(lambda task: task.cancelled() or task.exception())


class Defiant(Agent):
    """Swallows every cancellation, and goes on trying everything that a context offers."""

    name = "defiant"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        async def work() -> JSON:
            effect(f"{input['key']}-late")
            return 1

        await context.emit.thinking("I stay.")
        loop = asyncio.get_running_loop()
        end = loop.time() + input["seconds"]
        await context.state.set(["mine"])
        cancelled = False
        while loop.time() < end:
            try:
                await asyncio.sleep(0.05)
                if cancelled:
                    await context.state.set(["late"])
                    await self._try(context, work, input["key"])
            except asyncio.CancelledError:
                cancelled = True
        return "stayed"

    async def _try(self, context: RunContext, work: object, key: str) -> None:
        for attempt in (
            lambda: context.emit.thinking("late"),
            lambda: context.step("late", work),  # type: ignore[arg-type]
            lambda: context.tools.call("count", key=f"{key}-late"),
            lambda: context.agents.run("effecting", {"key": f"{key}-late"}),
            lambda: context.wait_for.input("late?"),
        ):
            try:
                await attempt()
            except asyncio.CancelledError:
                continue


class Talkative(Agent):
    """Sends a million events, or with `deltas` a million pieces of a text."""

    name = "talkative"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        for number in range(1_000_000):
            try:
                if input.get("deltas"):
                    await context.emit.delta("text-without-end", "more")
                else:
                    await context.emit.progress("more", number, 1_000_000)
            except AgentError:
                continue
        return "never"


AGENTS = (
    Journaling,
    Effecting,
    OnceOnly,
    Fickle,
    Asking,
    AskingApart,
    Trying,
    Insisting,
    Remembering,
    Consenting,
    Busy,
    Defiant,
    Talkative,
)
