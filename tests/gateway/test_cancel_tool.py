"""A user stops one call of a tool, by the id that the events of the run name it by, and the run goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import pytest
import pytest_asyncio

from carrel import Client
from carrel.client import RunState, ToolCancellation
from carrel.errors import NotFound
from tests.gateway.edge import http_client
from tests.support.system import Person, System

STOPPED = ToolCancellation.TOOL_CANCELLATION_STOPPED
ENDED = ToolCancellation.TOOL_CANCELLATION_ENDED


@pytest_asyncio.fixture
async def client(system: System, ada: Person) -> AsyncIterator[Client]:
    async with Client(system.addresses["gateway"], ada.token) as client:
        yield client


async def calling(client: Client) -> tuple[str, str]:
    """A run that calls a tool which takes a minute, and the id of the call."""
    run = await client.start_run("consenting", {"tool": "sleep", "arguments": {"seconds": 60}})
    async with aclosing(client.watch_run(run.run_id)) as events:
        async for event in events:
            if event.type == "tool_executing":
                return run.run_id, event.tool_executing.tool_call_id
    raise AssertionError("the run ended without a call")


async def test_the_run_is_told_and_goes_on(client: Client) -> None:
    run_id, tool_call_id = await calling(client)
    # The call is told of a little before it arrives where it is executed: a cancel waits for it there too.
    assert (await client.cancel_tool(tool_call_id, timedelta(seconds=10))).cancellation == STOPPED
    run = await client.wait_for_run(run_id)
    assert run.state == RunState.RUN_STATE_SUCCEEDED and "TOOL_CANCELLED" in run.result_json
    again = await client.cancel_tool(tool_call_id)
    assert (again.cancellation, again.tool_call.tool_call_id) == (STOPPED, tool_call_id)


async def test_over_http_the_same_and_nobody_else_can(system: System, client: Client, ada: Person, eve: Person) -> None:
    run_id, tool_call_id = await calling(client)
    async with http_client(system, ada.token) as http, http_client(system, eve.token) as eves:
        theirs = await eves.post(f"/v1/tool-calls/{tool_call_id}/cancel")
        assert (theirs.status_code, theirs.json()["reason"]) == (404, "TOOL_CALL_NOT_FOUND")
        answer = (await http.post(f"/v1/tool-calls/{tool_call_id}/cancel", json={"wait": "10s"})).json()
        assert answer["cancellation"] == "TOOL_CANCELLATION_STOPPED"
        assert answer["tool_call"]["outcome"] == "TOOL_OUTCOME_FAILED"
        assert (await client.wait_for_run(run_id)).state == RunState.RUN_STATE_SUCCEEDED


async def test_what_had_ended_had_ended_and_what_never_was_is_not_found(client: Client) -> None:
    run = await client.start_run("echo", {"text": "x"})
    await client.wait_for_run(run.run_id)
    [call] = [call async for call in client.list_tool_calls(run.run_id)]
    assert (await client.cancel_tool(call.tool_call_id)).cancellation == ENDED
    with pytest.raises(NotFound):
        await client.cancel_tool(f"{run.run_id}.never", timedelta(milliseconds=100))
