"""Starts a run and follows it to its end. Needs CARREL_TOKEN; see README.md in this folder."""

import asyncio
import json
import os

from carrel import CarrelClientError, Client


async def main() -> None:
    address = os.environ.get("CARREL_ADDRESS", "127.0.0.1:7400")
    async with Client(address, os.environ["CARREL_TOKEN"]) as carrel:
        run = await carrel.start_run("echo", {"text": "Hello, Carrel"})
        print(f"started {run.run_id}")

        # If the line breaks, this goes on after the last event by itself.
        async for event in carrel.watch_run(run.run_id):
            print(f"{event.cursor.offset:4} {event.type}")

        finished = await carrel.get_run(run.run_id)
        print(json.loads(finished.result_json))

        try:
            await carrel.get_run("run-of-somebody-else")
        except CarrelClientError as error:
            print(f"{error.reason}: {error.message}")


asyncio.run(main())
