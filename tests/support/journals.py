"""Journals, waits and proven cancels, as a client of agent-execution sees them; and the effects of what tests ran."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from tests.support.expect import eventually
from tests.support.system import Person, System


class Journals:
    """What one person sees of the journals of runs, and answers."""

    def __init__(self, system: System, person: Person) -> None:
        self._stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
        self._call: dict[str, Any] = {"metadata": person.metadata, "timeout": 40.0}

    async def steps(self, run_id: str, **wanted: Any) -> list[run_pb2.Step]:
        return list((await self.step_page(run_id, **wanted)).steps)

    async def step_page(self, run_id: str, **wanted: Any) -> pb.ListStepsResponse:
        return await self._stub.ListSteps(pb.ListStepsRequest(run_id=run_id, **wanted), **self._call)

    async def waits(self, run_id: str = "", **wanted: Any) -> list[run_pb2.Wait]:
        return list((await self.wait_page(run_id, **wanted)).waits)

    async def wait_page(self, run_id: str = "", **wanted: Any) -> pb.ListWaitsResponse:
        return await self._stub.ListWaits(pb.ListWaitsRequest(run_id=run_id, **wanted), **self._call)

    async def asked(self, run_id: str, count: int = 1) -> list[run_pb2.Wait]:
        """What the run waits for, when it waits for so much."""

        async def look() -> list[run_pb2.Wait]:
            waits = await self.waits(run_id)
            return waits if len(waits) == count else []

        return await eventually(look)

    async def answer(self, wait_id: str, value: Any) -> run_pb2.Wait:
        request = pb.ResolveWaitRequest(wait_id=wait_id, answer_json=json.dumps(value))
        return (await self._stub.ResolveWait(request, **self._call)).wait

    async def decide(self, wait_id: str, approved: bool, digest: str) -> run_pb2.Wait:
        decision = pb.ApprovalDecision(approved=approved, arguments_digest=digest)
        request = pb.ResolveWaitRequest(wait_id=wait_id, approval=decision)
        return (await self._stub.ResolveWait(request, **self._call)).wait

    async def cancel(self, run_id: str, seconds: float) -> pb.CancelRunResponse:
        wait = Duration()
        wait.FromNanoseconds(int(seconds * 1e9))
        return await self._stub.CancelRun(pb.CancelRunRequest(run_id=run_id, reason="enough", wait=wait), **self._call)


def effects(system: System, key: str) -> int:
    """How often something with this key has happened in the world."""
    path = system.data_dir.parent / "effects"
    return path.read_text().split().count(key) if path.exists() else 0
