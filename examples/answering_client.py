"""Answers what a run waits for, as its user: shows each question or call of a tool, and says yes, no, or the value. Needs CARREL_TOKEN.

With the agent of my_agent.py: python examples/answering_client.py poet '{}'
"""

import asyncio
import json
import os
import sys

from carrel import Client
from carrel.client import Run, RunState, Wait, WaitKind


async def answer(carrel: Client, wait: Wait) -> None:
    """What is approved is exactly the call that is shown: the digest of it goes along."""
    if wait.kind == WaitKind.WAIT_KIND_APPROVAL:
        said = await asyncio.to_thread(
            input, f"{wait.agent} wants to call {wait.tool} with {wait.arguments_json}. Yes? "
        )
        await carrel.decide_wait(wait, approved=said.strip().lower() in ("y", "yes"))
    else:
        said = await asyncio.to_thread(input, f"{wait.agent} asks: {wait.prompt} (JSON) ")
        await carrel.answer_wait(wait.wait_id, json.loads(said))


async def over(carrel: Client, run: Run) -> Run:
    """The run when it has ended, everything that it waits for on the way answered."""
    async for event in carrel.watch_run(run.run_id):
        if event.type in ("approval_requested", "input_requested"):
            async for wait in carrel.list_waits(run.run_id):
                await answer(carrel, wait)
    return await carrel.get_run(run.run_id)


async def main() -> None:
    agent, given = sys.argv[1], json.loads(sys.argv[2])
    async with Client(os.environ.get("CARREL_ADDRESS", "127.0.0.1:7400"), os.environ["CARREL_TOKEN"]) as carrel:
        ended = await over(carrel, await carrel.start_run(agent, given))
        print(RunState.Name(ended.state), ended.result_json)


asyncio.run(main())
