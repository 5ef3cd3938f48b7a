"""Starts a run and follows it to its end, in a program without an event loop. Needs CARREL_TOKEN; see README.md in this folder."""

import json
import os

from carrel import SyncClient

address = os.environ.get("CARREL_ADDRESS", "127.0.0.1:7400")
with SyncClient(address, os.environ["CARREL_TOKEN"]) as carrel:
    run = carrel.start_run("echo", {"text": "Hello, Carrel"})
    for event in carrel.watch_run(run.run_id):
        print(f"{event.cursor.offset:4} {event.type}")
    print(json.loads(carrel.get_run(run.run_id).result_json))
