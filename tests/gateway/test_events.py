"""Events at both faces: own events only, in order, going on after the last one seen, and an end when the gateway drains."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import grpc
import httpx
import pytest

from carrel import Client
from carrel.api.events.v1.event_pb2 import Cursor
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.errors import CarrelClientError, HistoryTruncated, InvalidArgument, Unauthenticated
from carrel_chassis.rpc.channel import open_channel
from tests.events.desk import Run, thoughts
from tests.gateway.edge import Sent, bearer, call, http_client, replica, server_sent
from tests.support.expect import refused
from tests.support.system import Person, System


async def some_events(system: System, person: Person, count: int = 5) -> Run:
    run = await Run.of(system, person)
    await run.append(*thoughts(count))
    return run


async def first(response: httpx.Response, count: int) -> list[Sent]:
    seen = []
    async with asyncio.timeout(10), aclosing(server_sent(response)) as events:
        async for event in events:
            seen.append(event)
            if len(seen) == count:
                return seen
    raise AssertionError(f"the stream ended after {len(seen)} events")


async def test_a_browser_goes_on_after_the_last_event_it_saw(system: System, ada: Person) -> None:
    run = await some_events(system, ada)
    async with http_client(system, ada.token) as http:
        async with http.stream("GET", "/v1/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            seen = await first(response, 3)
        assert [event.json["agent_thinking"]["text"] for event in seen] == ["thought 1", "thought 2", "thought 3"]
        assert {event.event for event in seen} == {"agent_thinking"}
        resumed = {"last-event-id": seen[-1].id}
        async with http.stream("GET", "/v1/events", headers=resumed) as response:
            await run.append(*thoughts(1))
            rest = await first(response, 3)
    assert [event.json["cursor"]["offset"] for event in rest] == [4, 5, 6]


async def test_the_header_wins_over_the_address(system: System, ada: Person) -> None:
    """A browser that comes back repeats the first address, `after` and all."""
    await some_events(system, ada)
    async with http_client(system, ada.token) as http:
        page = (await http.get("/v1/events/page")).json()
        epoch = page["position"]["epoch"]
        headers = {"last-event-id": f"{epoch}-4"}
        async with http.stream("GET", "/v1/events", params={"after": f"{epoch}-1"}, headers=headers) as response:
            assert (await first(response, 1))[0].id == f"{epoch}-5"


async def test_live_events_reach_an_open_stream(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    async with http_client(system, ada.token) as http, http.stream("GET", "/v1/events") as response:
        await run.append(*thoughts(2))
        assert [event.json["cursor"]["offset"] for event in await first(response, 2)] == [1, 2]


async def test_pages_of_events_follow_each_other(system: System, ada: Person) -> None:
    await some_events(system, ada)
    async with http_client(system, ada.token) as http:
        one = (await http.get("/v1/events/page", params={"page_size": 3})).json()
        two = (await http.get("/v1/events/page", params={"page_size": 3, "after": one["next"]})).json()
    assert [event["cursor"]["offset"] for event in one["events"] + two["events"]] == [1, 2, 3, 4, 5]
    assert (one["more"], two["more"]) == (True, False)


async def test_another_user_sees_nothing_at_either_face(
    system: System, edge: grpc.aio.Channel, ada: Person, eve: Person
) -> None:
    run = await some_events(system, ada)
    answer = pb.ListEventsResponse.FromString(await call(edge, "ListEvents", bearer(ada.token)))
    run_id, position = answer.events[0].run_id, answer.position
    async with http_client(system, eve.token) as http, Client(system.addresses["gateway"], eve.token) as client:
        assert not (await http.get("/v1/events/page")).json()["events"]
        assert not (await http.get("/v1/events/page", params={"run_id": run_id})).json()["events"]
        assert not (await client.list_events(run_id=run_id)).events
        await (await Run.of(system, eve)).append(*thoughts(1))
        await run.append(*thoughts(1))
        async with aclosing(client.subscribe()) as events:
            assert {event.user_id async for event in _some(events, 1)} == {eve.user_id}
        async with http.stream("GET", "/v1/events") as response:
            assert (await first(response, 1))[0].json["user_id"] == eve.user_id
        with pytest.raises(CarrelClientError):
            await client.list_events(position)  # a place in Ada's log is none in Eve's


async def _some(events, count):
    async for event in events:
        yield event
        count -= 1
        if not count:
            return


async def test_a_cursor_of_another_epoch_is_refused_before_the_stream_begins(system: System, ada: Person) -> None:
    await some_events(system, ada)
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        answer = await http.get("/v1/events", params={"after": "7-1"})
        assert (answer.status_code, answer.json()["reason"]) == (410, "HISTORY_TRUNCATED")
        with pytest.raises(HistoryTruncated):
            await anext(client.subscribe(Cursor(epoch=7, offset=1)))


async def test_a_malformed_message_is_refused_by_the_service_behind(edge: grpc.aio.Channel, ada: Person) -> None:
    for method in ("ListEvents", "Subscribe"):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"):
            await call(edge, method, bearer(ada.token), b"\xff\xff\xff")


async def test_refusals_of_the_services_reach_the_client_unchanged(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client, http_client(system, ada.token) as http:
        with pytest.raises(InvalidArgument) as refusal:
            await client.list_events(page_size=1001)
        answer = await http.get("/v1/events/page", params={"page_size": 1001})
    assert refusal.value.message == answer.json()["detail"]
    assert refusal.value.fields == answer.json()["fields"] != {}


async def test_streams_of_a_draining_gateway_end_and_the_client_goes_on_at_its_successor(
    system: System, ada: Person
) -> None:
    run = await some_events(system, ada, 2)
    async with replica(system) as old, Client(old.address, ada.token) as client, aclosing(client.subscribe()) as events:
        offsets = [(await anext(events)).cursor.offset for _ in range(2)]
        going_on = asyncio.ensure_future(anext(events))
        old.stop.set()
        await old.serving
        async with replica(system, old.address):
            await run.append(*thoughts(1))
            offsets.append((await asyncio.wait_for(going_on, 10)).cursor.offset)
    assert offsets == [1, 2, 3]


async def test_an_open_stream_is_told_of_the_drain_at_both_faces(system: System, ada: Person) -> None:
    await some_events(system, ada, 1)
    async with replica(system) as gateway:
        channel = open_channel(gateway.address)
        stream = channel.unary_stream("/carrel.api.gateway.v1.GatewayService/Subscribe")(
            b"", metadata=bearer(ada.token)
        )
        messages = aiter(stream)
        await anext(messages)
        async with (
            http_client(system, ada.token, gateway.http_address) as http,
            http.stream("GET", "/v1/events") as response,
        ):
            gateway.stop.set()
            with refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE") as refusal:
                while True:
                    await anext(messages)
            assert "stopping" in refusal.error.message
            async with asyncio.timeout(5):
                assert "UNAVAILABLE" in (await response.aread()).decode()
        await asyncio.wait_for(gateway.serving, 5)
        await channel.close()


async def test_a_client_with_a_wrong_token_does_not_try_for_ever(system: System) -> None:
    async with Client(system.addresses["gateway"], "ck_wrong") as client:
        with pytest.raises(Unauthenticated):
            await anext(client.subscribe())


async def test_a_taken_port_is_said_in_one_sentence(system: System) -> None:
    taken = system.addresses["gateway_http"]
    with pytest.raises(OSError, match="HTTP cannot listen on"):
        async with replica(system, http_address=taken):
            pass
    with pytest.raises(OSError, match="is in use"):
        async with replica(system, address=system.addresses["gateway"]):
            pass


async def test_a_stream_whose_reader_leaves_is_left_behind_too(system: System, ada: Person) -> None:
    """Were streams kept, the limit of open streams of one user would soon be reached."""
    await some_events(system, ada, 1)
    async with Client(system.addresses["gateway"], ada.token) as client, http_client(system, ada.token) as http:
        for _ in range(60):
            async with aclosing(client.subscribe()) as events:
                await anext(events)
            async with http.stream("GET", "/v1/events") as response:
                await first(response, 1)
