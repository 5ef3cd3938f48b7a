"""What a cancelled call leaves running: nothing. The process that ran its code is looked for, below all that Carrel says of itself."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import grpc
import pytest

from carrel.api.tools.v1 import tool_service_pb2 as pb
from tests.execution.test_runs import CANCELLED, Runs
from tests.support.expect import eventually
from tests.support.journals import Journals
from tests.support.system import Person, System
from tests.tools.conftest import Desk

# The name that the kernel shows of a process is the one thing of it that can be seen from outside at every level of the sandbox.
_ENDLESS = """
import ctypes
ctypes.CDLL(None).prctl(15, b"{name}")
while True: pass
"""


def endless() -> tuple[str, str]:
    """Code that never ends, and the name that its process gives itself."""
    name = f"t{secrets.token_hex(6)}"
    return name, _ENDLESS.format(name=name)


def runs_now(name: str) -> bool:
    """Whether there is a process of this name on the machine."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == name:
                return True
        except OSError:
            continue
    return False


async def begun(name: str) -> bool:
    async def look() -> bool:
        return runs_now(name)

    return await eventually(look, seconds=20)


async def gone(name: str) -> bool:
    async def look() -> bool:
        return not runs_now(name)

    return await eventually(look, seconds=1)


async def test_who_leaves_the_call_ends_the_process(desk: Desk):
    name, code = endless()
    call = asyncio.create_task(desk.result("python", code=code))
    await begun(name)
    call.cancel()
    await gone(name)


async def test_who_leaves_the_stream_ends_the_process(desk: Desk):
    name, code = endless()
    call = pb.ExecuteToolRequest(step_id="1", tool="python", arguments_json=json.dumps({"code": code}))
    request = pb.ExecuteToolStreamRequest(call=call)
    stream = desk.tools.ExecuteToolStream(request, metadata=await desk.run_metadata(), timeout=60)
    await begun(name)
    stream.cancel()
    await gone(name)


async def test_a_deadline_ends_the_process(desk: Desk):
    name, code = endless()
    request = pb.ExecuteToolRequest(step_id="1", tool="python", arguments_json=json.dumps({"code": code}))
    call = desk.tools.ExecuteTool(request, metadata=await desk.run_metadata(), timeout=3)
    await begun(name)
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await gone(name)


async def test_to_cancel_the_run_ends_the_process_before_the_answer_comes(system: System, ada: Person):
    runs, journals = Runs(system, ada), Journals(system, ada)
    name, code = endless()
    run = await runs.start("consenting", {"tool": "python", "arguments": {"code": code}})
    await begun(name)
    answer = await journals.cancel(run.run_id, 10.0)
    assert answer.run.state == CANCELLED and not answer.not_stopped
    assert ("tool", "python") in {(part.kind, part.name) for part in answer.stopped}
    await gone(name)
