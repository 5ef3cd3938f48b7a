"""The process of event-stream: its parts put together, served, and taken apart again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from carrel.api.events.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from carrel_chassis.bus import Bus
from carrel_chassis.db.open import user_sessions
from carrel_chassis.process import run_service
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust, fetched_keys, fetched_revocations
from carrel_events.hub import open_hub
from carrel_events.operations import EventOperations
from carrel_events.servicer import EventServicer
from carrel_events.settings import EventsSettings
from carrel_events.tripwire import Tripwire


async def serve(settings: EventsSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. The bus may be away: streams are then fed from the log."""
    async with AsyncExitStack() as stack:
        trust = Trust(settings, "event-stream")
        keys = await stack.enter_async_context(fetched_keys(trust, settings.context_address))
        sessions = await stack.enter_async_context(user_sessions(settings))
        bus = Bus(settings.nats_url.get_secret_value())
        await bus.start()
        stack.push_async_callback(bus.close)
        revocations = await stack.enter_async_context(fetched_revocations(trust, settings, bus))
        tripwire = Tripwire()
        hub = await stack.enter_async_context(open_hub(bus, tripwire))
        operations = EventOperations(sessions, hub, settings, trust.clock)
        server = RpcServer(settings, trust.authenticator(keys, revocations), revocations)
        servicer = EventServicer(operations, tripwire, settings.slow_reader_seconds)
        server.register(add_EventServiceServicer_to_server, servicer)
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


if __name__ == "__main__":
    run_service("event-stream", EventsSettings, serve)
