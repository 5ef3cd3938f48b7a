"""The process of event-stream: its parts put together, served, and taken apart again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from carrel.api.events.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from carrel_chassis.bus import Bus
from carrel_chassis.db.open import cross_user_database, user_sessions
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, fetched_keys, fetched_revocations
from carrel_events.group_commit import GroupCommit
from carrel_events.health import report
from carrel_events.hub import Hub
from carrel_events.line import open_line
from carrel_events.log_reader import LogReader
from carrel_events.operations import EventOperations
from carrel_events.publisher import Publisher
from carrel_events.retention import Retention
from carrel_events.servicer import EventServicer
from carrel_events.settings import EventsSettings
from carrel_events.tripwire import Tripwire
from carrel_events.work import in_background
from carrel_events.writer import LogWriter


async def serve(settings: EventsSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. The bus may be away: streams are then fed from the log."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "event-stream")
        keys = await stack.enter_async_context(fetched_keys(trust, settings.context_address))
        log = LogReader(await stack.enter_async_context(user_sessions(settings)))
        writer_url = settings.writer_database_url.get_secret_value()
        appends, counters = [await stack.enter_async_context(open_line(writer_url)) for _ in range(2)]
        writer = LogWriter(appends, counters)
        bus = Bus(settings.nats_url.get_secret_value(), echo=False)
        await bus.start()
        stack.push_async_callback(bus.close)
        revocations = await stack.enter_async_context(fetched_revocations(trust, settings, bus))

        tripwire = Tripwire()
        hub = Hub(bus, tripwire, log, writer.positions, settings)
        stack.push_async_callback(hub.close)
        publisher = Publisher(hub.publish)
        commits = GroupCommit(writer.append, publisher.publish)
        retention_url = settings.retention_database_url.get_secret_value()
        retention = Retention(await stack.enter_async_context(cross_user_database(retention_url, 2)), settings)
        operations = EventOperations(log, commits, retention, publisher, tripwire, hub, settings, trust.clock)
        server = RpcServer(settings, trust.authenticator(keys, revocations), revocations, trust.server_credentials())
        servicer = EventServicer(operations, tripwire, settings.slow_reader_seconds)
        server.register(add_EventServiceServicer_to_server, servicer)
        health = report(lambda: bus.connected, lambda: writer.positions(()), server.set_part_serving)
        for work in (
            health,
            commits.run(),
            hub.keep_positions(),
            hub.keep_heartbeats(),
            hub.wake_on(server.stopping),
            retention.run(),
        ):
            await stack.enter_async_context(in_background(work))
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


if __name__ == "__main__":
    run_service("event-stream", EventsSettings, serve)
