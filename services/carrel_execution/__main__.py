"""The process of agent-execution: from settings to serving, and back without losing a run."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from carrel.agent import JSON
from carrel.api.runs.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from carrel.api.runs.v1.schedule_service_pb2_grpc import add_ScheduleServiceServicer_to_server
from carrel_agents.prices import PricesInvalid, load_prices
from carrel_chassis.bus import Bus
from carrel_chassis.db.open import cross_user_database, user_sessions
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.errors import invalid
from carrel_chassis.ids import new_id
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, fetched_keys, fetched_revocations
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.agents.guard import instance_factory, watched_loop
from carrel_execution.agents.registry import load_registry
from carrel_execution.attempt.attempt import Workshop
from carrel_execution.clients import Contexts, Log, Tools
from carrel_execution.domain import to_json
from carrel_execution.inspection import Inspection
from carrel_execution.journal.store import JournalStore
from carrel_execution.journal.waits import WaitOperations
from carrel_execution.models.calls import open_models
from carrel_execution.queue.leases import Leases
from carrel_execution.queue.outbox import Outbox
from carrel_execution.queue.store import Queue
from carrel_execution.queue.sweeps import Sweeps
from carrel_execution.queue.waiting import in_background
from carrel_execution.queue.worker import Worker
from carrel_execution.runs.cancelling import Cancelling
from carrel_execution.runs.follow import Followers
from carrel_execution.runs.operations import CANCEL_SUBJECT, WAKE_SUBJECT, Operations
from carrel_execution.runs.retention import Retention
from carrel_execution.runs.revoked import RevokedRuns
from carrel_execution.runs.servicer import RunServicer
from carrel_execution.runs.statistics import RunStatistics, StatisticsReader
from carrel_execution.schedules.due import DueSchedules
from carrel_execution.schedules.operations import ScheduleOperations
from carrel_execution.schedules.servicer import ScheduleServicer
from carrel_execution.settings import ExecutionSettings


async def serve(settings: ExecutionSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. What is entered last ends first: calls, then runs, then what runs stand on."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "agent-execution")
        registry = load_registry(settings.modules)
        factory = await stack.enter_async_context(instance_factory(settings, registry))
        workshop, leases_queue = await _workshop(settings, trust, factory, stack)
        keys = await stack.enter_async_context(fetched_keys(trust, settings.context_address))
        sessions = await stack.enter_async_context(user_sessions(settings))
        bus = Bus(settings.nats_url.get_secret_value())
        await bus.start()
        stack.push_async_callback(bus.close)
        revocations = await stack.enter_async_context(fetched_revocations(trust, settings, bus))

        worker, outbox = Worker(workshop), workshop.outbox
        leases = Leases(
            leases_queue,
            worker,
            workshop.statistics,
            settings,
            clock=time.time,
            on_requeued=worker.wake,
            on_ended=outbox.kick,
        )
        sweeps = Sweeps(
            workshop.queue,
            workshop.journal,
            settings.poll_seconds,
            clock=time.time,
            on_ready=worker.wake,
            on_ended=outbox.kick,
        )
        await _listen(bus, worker, leases)
        stack.enter_context(watched_loop(settings, factory, worker.name, worker.attempts))
        stack.push_async_callback(outbox.delete_sent)
        stack.push_async_callback(workshop.statistics.write)
        for work in (outbox.run(), leases.run(), workshop.statistics.run(), sweeps.run()):
            await stack.enter_async_context(in_background(work))
        await stack.enter_async_context(in_background(worker.run()))
        stack.push_async_callback(worker.drain, settings.drain_seconds)

        operations = Operations(sessions, registry, settings, worker=worker, outbox=outbox, bus=bus, clock=time.time)
        followers, statistics, schedules = await _beside_the_runs(settings, workshop, sessions, operations, stack)
        waits = WaitOperations(sessions, clock=time.time, on_ready=operations.wake)
        revoked = RevokedRuns(sessions, operations)
        revocations.watch(revoked.heed)
        stack.push_async_callback(revoked.close)
        server = RpcServer(settings, trust.authenticator(keys, revocations), revocations, trust.server_credentials())
        server.register(
            add_RunServiceServicer_to_server,
            RunServicer(
                operations,
                Cancelling(operations, worker),
                waits,
                followers,
                statistics,
                factory.is_isolated,
                Inspection(settings, factory, worker, time.time),
            ),
        )
        server.register(add_ScheduleServiceServicer_to_server, ScheduleServicer(schedules))
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


async def _beside_the_runs(
    settings: ExecutionSettings,
    workshop: Workshop,
    sessions: UserSessions,
    operations: Operations,
    stack: AsyncExitStack,
) -> tuple[Followers, StatisticsReader, ScheduleOperations]:
    """What begins, ends, counts and deletes runs without their users, each over a connection that the workers do not wait for."""
    url = settings.runner_database_url.get_secret_value()
    runner = await stack.enter_async_context(cross_user_database(url, 2))
    url = settings.retention_database_url.get_secret_value()
    retention_engine = await stack.enter_async_context(cross_user_database(url, 1))
    url = settings.statistics_database_url.get_secret_value()
    tenants = TenantDatabase(await stack.enter_async_context(cross_user_database(url, 1)))
    followers = Followers(sessions, runner, operations, settings.disconnect_seconds)
    due = DueSchedules(runner, sessions, operations, workshop.contexts, time.time)
    retention = Retention(retention_engine, keep_runs_days=settings.keep_runs_days, clock=time.time)
    for work in (followers.run(), due.run(), retention.run()):
        await stack.enter_async_context(in_background(work))
    return (
        followers,
        StatisticsReader(sessions, tenants, runner, time.time),
        ScheduleOperations(sessions, operations, most=settings.schedules_per_user, clock=time.time),
    )


async def _workshop(
    settings: ExecutionSettings, trust: Trust, factory: InstanceFactory, stack: AsyncExitStack
) -> tuple[Workshop, Queue]:
    """What runs stand on, and the queue over a connection that is kept for leases."""
    url, name = settings.runner_database_url.get_secret_value(), new_id("worker")
    versions = {agent: factory.registry.version(agent) for agent in factory.registry.names}
    engine = await stack.enter_async_context(cross_user_database(url, settings.runner_pool_size))
    queue = Queue(engine, name, versions)
    leases_engine = await stack.enter_async_context(cross_user_database(url, 1))
    leases_queue = Queue(leases_engine, name)
    context = trust.peer("context", settings.context_address)
    tools = trust.peer("tool-dispatch", settings.tools_address)
    events = trust.peer("event-stream", settings.events_address)
    for peer in (context, tools, events):
        stack.push_async_callback(peer.close)
    contexts, log, statistics = Contexts(context), Log(events), RunStatistics(leases_engine, time.time)
    return (
        Workshop(
            settings=settings,
            agent_settings_json=to_json(_agent_settings(settings)),
            clock=time.time,
            queue=queue,
            journal=JournalStore(engine),
            contexts=contexts,
            tools=Tools(tools),
            log=log,
            outbox=Outbox(queue, contexts, log, statistics),
            factory=factory,
            statistics=statistics,
            models=await stack.enter_async_context(open_models(settings.models_file)),
        ),
        leases_queue,
    )


def _agent_settings(settings: ExecutionSettings) -> dict[str, JSON]:
    if settings.prices_file is None:
        return {}
    try:
        return {"prices": load_prices(settings.prices_file)}
    except PricesInvalid as error:
        raise invalid("prices_file", str(error)) from error


async def _listen(bus: Bus, worker: Worker, leases: Leases) -> None:
    """Hints from other processes: they make things faster, never different."""

    async def wake(subject: str, payload: bytes) -> None:
        worker.wake()

    async def cancel(subject: str, payload: bytes) -> None:
        # What is asked is read from the database: nobody can cancel a run over the bus.
        if any(attempt.run_id.encode() == payload for attempt in worker.attempts.values()):
            leases.renew_soon()

    await bus.subscribe(WAKE_SUBJECT, wake)
    await bus.subscribe(CANCEL_SUBJECT, cancel)


if __name__ == "__main__":
    run_service("agent-execution", ExecutionSettings, serve)
