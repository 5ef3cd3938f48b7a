"""Runs at both faces: the same run, the same refusals, and nothing of another user's."""

from __future__ import annotations

import uuid
from contextlib import aclosing

import grpc
import pytest

from carrel import Client
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import RunState
from carrel.errors import Conflict, InvalidArgument, NotFound
from tests.gateway.edge import bearer, call, http_client, server_sent
from tests.support.expect import refused
from tests.support.system import Person, System

HELLO = {"agent": "echo", "input": {"text": "hello"}}


async def test_a_run_started_over_http_is_followed_by_sse_to_its_end(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http:
        answer = await http.post("/v1/runs", json=HELLO)
        assert answer.status_code == 201
        run = answer.json()
        assert (run["agent"], run["input"], run["result"]) == ("echo", {"text": "hello"}, None)
        async with http.stream("GET", f"/v1/runs/{run['run_id']}/events") as response:
            seen = [event async for event in server_sent(response)]
        assert seen[-1].event == "agent_completed"
        assert seen[-1].json["final"] is True
        assert seen[-1].json["agent_completed"]["result"] == {"text": "hello"}
        assert {event.json["run_id"] for event in seen} == {run["run_id"]}
        ended = (await http.get(f"/v1/runs/{run['run_id']}")).json()
        assert (ended["state"], ended["result"]) == ("RUN_STATE_SUCCEEDED", {"text": "hello"})
        # A browser asks again after the end of a stream; 204 tells it to stop.
        again = await http.get(f"/v1/runs/{run['run_id']}/events", headers={"last-event-id": seen[-1].id})
        assert again.status_code == 204
        middle = {"last-event-id": seen[1].id}
        async with http.stream("GET", f"/v1/runs/{run['run_id']}/events", headers=middle) as response:
            assert [event.id async for event in server_sent(response)] == [event.id for event in seen[2:]]


async def test_a_watch_of_the_client_ends_after_the_final_event(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        run = await client.start_run("echo", {"text": "hello"})
        events = [event async for event in client.watch_run(run.run_id)]
        assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
        assert events[0].type == "run_queued"
        assert not [event async for event in client.watch_run(run.run_id, events[-1].cursor)]
        rest = [event async for event in client.watch_run(run.run_id, events[0].cursor)]
        assert [event.event_id for event in rest] == [event.event_id for event in events[1:]]
        assert (await client.get_run(run.run_id)).state == RunState.RUN_STATE_SUCCEEDED


async def test_the_same_request_id_is_the_same_run_at_both_faces(system: System, ada: Person) -> None:
    request_id = str(uuid.uuid4())
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        by_key = (await http.post("/v1/runs", json=HELLO, headers={"idempotency-key": request_id})).json()
        by_body = (await http.post("/v1/runs", json={**HELLO, "request_id": request_id})).json()
        by_client = await client.start_run("echo", {"text": "hello"}, request_id=request_id)
        assert by_key["run_id"] == by_body["run_id"] == by_client.run_id
        other = await http.post("/v1/runs", json={**HELLO, "input": {"text": "other"}, "request_id": request_id})
        assert (other.status_code, other.json()["reason"]) == (409, "REQUEST_ID_REUSED")
        with pytest.raises(Conflict):
            await client.start_run("echo", {"text": "other"}, request_id=request_id)


async def test_a_stranger_finds_no_run_by_any_operation(
    system: System, edge: grpc.aio.Channel, ada: Person, eve: Person
) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        run_id = (await client.start_run("echo", {"text": "secret"})).run_id
        assert [event async for event in client.watch_run(run_id)]
    for method, request in {
        "GetRun": pb.GetRunRequest(run_id=run_id),
        "CancelRun": pb.CancelRunRequest(run_id=run_id),
        "WatchRun": pb.WatchRunRequest(run_id=run_id),
    }.items():
        with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
            await call(edge, method, bearer(eve.token), request.SerializeToString())
    async with http_client(system, eve.token) as http, Client(system.addresses["gateway"], eve.token) as client:
        for verb, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
            answer = await http.request(verb, f"/v1/runs/{run_id}{path}")
            assert (answer.status_code, answer.json()["reason"]) == (404, "RUN_NOT_FOUND")
        assert (await http.get("/v1/runs")).json()["runs"] == []
        assert (await http.get("/v1/tool-calls", params={"run_id": run_id})).json()["tool_calls"] == []
        assert not [run async for run in client.list_runs()]
        assert not [tool_call async for tool_call in client.list_tool_calls()]
        with pytest.raises(NotFound):
            await client.get_run(run_id)


async def test_lists_page_at_both_faces(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        started = [(await client.start_run("echo", {"text": str(number)})).run_id for number in range(3)]
        assert [run.run_id async for run in client.list_runs(page_size=1)] == started[::-1]
        page = (await http.get("/v1/runs", params={"page_size": 2})).json()
        rest = (await http.get("/v1/runs", params={"page_size": 2, "page_token": page["next_page_token"]})).json()
        assert [run["run_id"] for run in page["runs"] + rest["runs"]] == started[::-1]
        none = await http.get("/v1/runs", params=[("state", "DEAD"), ("state", "RUN_STATE_TIMED_OUT")])
        assert none.json()["runs"] == []


async def test_a_malformed_watch_is_refused(edge: grpc.aio.Channel, ada: Person) -> None:
    for method in ("WatchRun", "StartRun"):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"):
            await call(edge, method, bearer(ada.token), b"\xff\xff\xff")


async def test_refusals_are_the_same_at_both_faces(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        answer = await http.post("/v1/runs", json={"agent": "no-such-agent"})
        assert (answer.status_code, answer.json()["reason"]) == (404, "AGENT_NOT_FOUND")
        with pytest.raises(NotFound) as refusal:
            await client.start_run("no-such-agent", {})
        assert refusal.value.message == answer.json()["detail"]
        for path in ("/v1/runs/none", "/v1/runs/registry", "/v1/runs/%FF", "/v1/runs/a%20b"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_ID"), path
        with pytest.raises(InvalidArgument):
            await client.get_run("none")


async def test_a_run_is_cancelled_over_http(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http:
        run_id = (await http.post("/v1/runs", json=HELLO)).json()["run_id"]
        answer = await http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "changed my mind"})
        assert answer.status_code == 200
        async with http.stream("GET", f"/v1/runs/{run_id}/events") as response:
            last = [event async for event in server_sent(response)][-1]
        assert last.event in ("run_cancelled", "agent_completed")


async def test_agents_and_tools_are_listed(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        agents = (await http.get("/v1/agents")).json()["agents"]
        assert [agent["name"] for agent in agents] == [agent.name for agent in await client.list_agents()]
        tools = (await http.get("/v1/tools")).json()["tools"]
        assert [tool["name"] for tool in tools] == [tool.name for tool in await client.list_tools()]
        assert all(isinstance(tool["arguments_schema"], dict) for tool in tools)


async def test_tool_calls_are_those_of_the_user(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client, http_client(system, ada.token) as http:
        run = await client.start_run("echo", {"text": "hello"})
        async with aclosing(client.watch_run(run.run_id)) as events:
            async for _ in events:
                pass
        calls = [tool_call async for tool_call in client.list_tool_calls(run.run_id)]
        assert [tool_call.tool for tool_call in calls] == ["echo"]
        shown = (await http.get("/v1/tool-calls", params={"run_id": run.run_id})).json()["tool_calls"]
        assert [tool_call["outcome"] for tool_call in shown] == ["TOOL_OUTCOME_SUCCEEDED"]
