"""The gateway killed under two hundred streams: every reader goes on from its own place, and a checker reads what each received."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing, suppress

import httpx

from carrel import Client
from tests.events.desk import Run, thoughts
from tests.gateway.edge import http_client, server_sent
from tests.gateway.processes import GatewayProcess, gateway_process
from tests.support.expect import eventually
from tests.support.system import Person, System

PEOPLE = 10
CLIENTS_EACH = 10
"""Of each kind: a hundred streams of the Python client and a hundred of a browser."""
KILLS = 3
EVENTS_BETWEEN = 5


class Reader:
    """One stream and every offset that it has received."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.offsets: list[int] = []
        self.owners: set[str] = set()

    async def by_client(self, client: Client) -> None:
        async with aclosing(client.subscribe()) as events:
            async for event in events:
                self._received(event.cursor.offset, event.user_id)

    async def by_browser(self, http: httpx.AsyncClient) -> None:
        """As EventSource does it: comes back after a second with the last id that it saw."""
        last = ""
        while True:
            with suppress(httpx.HTTPError):
                headers = {"last-event-id": last} if last else {}
                async with http.stream("GET", "/v1/events", headers=headers) as response:
                    if response.status_code == 200:
                        async for event in server_sent(response):
                            last = event.id
                            self._received(event.json["cursor"]["offset"], event.json["user_id"])
            await asyncio.sleep(0.5)

    def _received(self, offset: int, owner: str) -> None:
        self.offsets.append(offset)
        self.owners.add(owner)


async def readers_of(stack: AsyncExitStack, system: System, gateway: GatewayProcess, person: Person) -> list[Reader]:
    """All of one person's streams, begun; they end with the stack."""
    readers = [Reader(person) for _ in range(2 * CLIENTS_EACH)]
    http = await stack.enter_async_context(http_client(system, person.token, gateway.http_address))
    works = []
    for number, reader in enumerate(readers):
        if number % 2:
            works.append(reader.by_browser(http))
        else:
            client = await stack.enter_async_context(Client(gateway.address, person.token))
            works.append(reader.by_client(client))
    for work in works:
        task = asyncio.create_task(work)
        stack.push_async_callback(_ended, task)
    return readers


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_two_hundred_streams_survive_kills_of_the_gateway(system: System) -> None:
    """Events are appended before each kill, while the gateway is away, and after: none is lost, none comes twice, none is out of order."""
    people = [await system.person() for _ in range(PEOPLE)]
    runs = [await Run.of(system, person) for person in people]
    async with gateway_process(system) as gateway, AsyncExitStack() as stack:
        readers: list[Reader] = []
        for person in people:
            readers += await readers_of(stack, system, gateway, person)
        assert len(readers) == 200
        appended = 0

        async def tell() -> None:
            nonlocal appended
            await asyncio.gather(*(run.append(*thoughts(EVENTS_BETWEEN)) for run in runs))
            appended += EVENTS_BETWEEN

        async def all_told() -> bool:
            return all(len(reader.offsets) >= appended for reader in readers)

        await tell()
        await eventually(all_told, seconds=30)
        for _ in range(KILLS):
            telling = asyncio.create_task(tell())  # under way when the gateway dies
            await gateway.kill()
            await telling
            await tell()
            await gateway.start()
            await tell()
            await eventually(all_told, seconds=30)

        for reader in readers:
            assert reader.offsets == list(range(1, appended + 1))
            assert reader.owners == {reader.person.user_id}
