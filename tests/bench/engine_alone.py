"""The run engine in one process, with nothing around it: operations, worker, attempts, journal, queue and outbox are those of the service.

What a run asks of its neighbours is answered here at once, without a call: the context service's contexts and event-stream's appends.
So this is what the engine itself makes of a PostgreSQL, as a library that lives within its caller's process is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from carrel.api.context.v1 import user_context_pb2
from carrel.api.events.v1 import event_pb2
from carrel_chassis.db.engine import cross_user_engine, user_engine
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.stack import Stack
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.agents.isolation.host import ProcessHost
from carrel_execution.agents.registry import AgentRegistry
from carrel_execution.attempt.attempt import Workshop
from carrel_execution.clients import Contexts, Credential, Log
from carrel_execution.journal.store import JournalStore
from carrel_execution.models.calls import Models
from carrel_execution.queue.outbox import Outbox
from carrel_execution.queue.store import Queue
from carrel_execution.queue.waiting import in_background
from carrel_execution.queue.worker import Worker
from carrel_execution.runs.operations import Operations
from carrel_execution.runs.start import StartRequest
from carrel_execution.runs.statistics import RunStatistics
from carrel_execution.settings import ExecutionSettings
from tests.bench.report import percentile
from tests.bench.stepping import AGENTS

_POOL_SIZE = 12
_AN_HOUR = 3600.0


class _Contexts(Contexts):
    """Gives every attempt a context that nobody will look at."""

    def __init__(self) -> None:
        pass

    async def for_attempt(self, *args: Any, **kwargs: Any) -> Credential:
        return Credential(b"context", time.time() + _AN_HOUR)


class _Log(Log):
    """Hears how runs end."""

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Future[str]] = {}

    async def end_of(self, run_id: str) -> str:
        """The type of the run's final event."""
        try:
            return await self._end(run_id)
        finally:
            del self._ends[run_id]

    def _end(self, run_id: str) -> asyncio.Future[str]:
        return self._ends.setdefault(run_id, asyncio.get_running_loop().create_future())

    async def append(self, signed: bytes, events: Sequence[event_pb2.Event], seconds: float = 0.0) -> None:
        for event in events:
            if event.final:
                self._end(event.event_id.removesuffix(".final")).set_result(event.type)


class _Nobody:
    """Stands where nothing is asked: the agent calls no tool, and no other process is to be woken."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for, and nothing should")


async def measure_alone(stack: Stack, at_once: int, seconds: float) -> tuple[float, float]:
    """Runs a second and their p50 in ms, with so many users that have one run each at a time. The schema must be there."""
    settings = _settings(stack)
    async with AsyncExitStack() as open_:
        users = user_engine(stack.database_url("carrel_execution"), _POOL_SIZE)
        runner = cross_user_engine(settings.runner_database_url.get_secret_value(), _POOL_SIZE)
        open_.push_async_callback(users.dispose)
        open_.push_async_callback(runner.dispose)
        registry, log, contexts = AgentRegistry(AGENTS), _Log(), _Contexts()
        queue, statistics = Queue(runner, new_id("worker"), {}), RunStatistics(runner, time.time)
        outbox = Outbox(queue, contexts, log, statistics)
        nobody: Any = _Nobody()
        workshop = Workshop(
            settings=settings,
            agent_settings_json="{}",
            clock=time.time,
            queue=queue,
            journal=JournalStore(runner),
            contexts=contexts,
            tools=nobody,
            log=log,
            outbox=outbox,
            factory=InstanceFactory(registry, ProcessHost([])),
            statistics=statistics,
            models=Models({}, {}),
        )
        worker = Worker(workshop)
        for work in (outbox.run(), statistics.run(), worker.run()):
            await open_.enter_async_context(in_background(work))
        operations = Operations(
            UserSessions(users), registry, settings, worker=worker, outbox=outbox, bus=nobody, clock=time.time
        )
        taken: list[float] = []
        begin = time.perf_counter()
        await asyncio.gather(*(_user(f"user-{n}", operations, log, begin + seconds, taken) for n in range(at_once)))
        return len(taken) / (time.perf_counter() - begin), percentile(taken, 0.5) * 1e3


async def _user(user_id: str, operations: Operations, log: _Log, end: float, taken: list[float]) -> None:
    user = replace(_USER, user_id=user_id)
    while (begin := time.perf_counter()) < end:
        request = StartRequest(new_id("request"), "stepping", "{}")
        run = await operations.start_run(user, new_id("call"), _GRANT, request)
        assert await log.end_of(run.run_id) == "agent_completed"
        taken.append(time.perf_counter() - begin)


_GRANT = user_context_pb2.SignedUserContext().SerializeToString()
_USER = UserContext(
    context_id="ctx-bench",
    tenant_id="tenant-bench",
    user_id="user-bench",
    session_id="session-bench",
    scopes=frozenset(),
    audiences=frozenset(),
    issue_time=0.0,
    expire_time=0.0,
    request_id="request-bench",
)


def _settings(stack: Stack) -> ExecutionSettings:
    """Only what the engine reads; the rest belongs to the service around it."""
    url = SecretStr(stack.database_url("carrel_execution_runner"))
    return ExecutionSettings.model_construct(runner_database_url=url, worker_capacity=64)
