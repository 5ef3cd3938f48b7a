"""The agent corpus_admin on the running system: what it destroys it destroys with its user's consent, once, and for nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from carrel.api.runs.v1.run_pb2 import RunState, Wait, WaitKind
from carrel.client import Client, Run
from carrel.errors import CarrelClientError
from tests.support.directory import with_role
from tests.support.expect import eventually
from tests.support.system import Person, System

CONTENT = b"a,b\n1,2\n"


@pytest_asyncio.fixture
async def client(system: System) -> AsyncIterator[Client]:
    """Of a user who may administer their corpora, and has one."""
    person = await with_role(system, "power")
    async with Client(system.addresses["gateway"], person.token) as client:
        await client.upload_corpus("mine", CONTENT)
        yield client


async def ended(client: Client, run: Run) -> Run:
    async with asyncio.timeout(60):
        async for _ in client.watch_run(run.run_id):
            pass
    return await client.get_run(run.run_id)


async def asked(client: Client, run: Run) -> Wait:
    async def look() -> list[Wait]:
        return [wait async for wait in client.list_waits(run.run_id)]

    (wait,) = await eventually(look, seconds=20)
    return wait


async def names(client: Client) -> list[str]:
    return [corpus.name async for corpus in client.list_corpora()]


@pytest.mark.parametrize("approved", [True, False])
async def test_a_corpus_is_deleted_only_with_consent(client: Client, approved: bool) -> None:
    run = await client.start_run("corpus_admin", {"action": "delete", "name": "mine"})
    wait = await asked(client, run)
    assert (wait.kind, wait.tool) == (WaitKind.WAIT_KIND_APPROVAL, "corpus_admin")
    assert json.loads(wait.arguments_json) == {"action": "delete", "name": "mine"}
    assert await names(client) == ["mine"]
    await client.decide_wait(wait, approved=approved)
    done = await ended(client, run)
    if approved:
        assert json.loads(done.result_json) == {"action": "delete", "result": {"deleted": "mine"}}
        assert await names(client) == []
    else:
        assert (done.state, done.error.reason) == (RunState.RUN_STATE_FAILED, "APPROVAL_DENIED")
        assert await names(client) == ["mine"]


async def test_another_user_cannot_consent(system: System, client: Client, eve: Person) -> None:
    run = await client.start_run("corpus_admin", {"action": "delete", "name": "mine"})
    wait = await asked(client, run)
    async with Client(system.addresses["gateway"], eve.token) as intruder:
        with pytest.raises(CarrelClientError) as refusal:
            await intruder.decide_wait(wait, approved=True)
    assert refusal.value.code is grpc.StatusCode.NOT_FOUND
    assert await names(client) == ["mine"]
    await client.cancel_run(run.run_id)


async def test_what_destroys_nothing_asks_nobody(client: Client) -> None:
    run = await client.start_run("corpus_admin", {"action": "list"})
    done = await ended(client, run)
    assert [corpus["name"] for corpus in json.loads(done.result_json)["result"]["corpora"]] == ["mine"]


async def test_nobody_is_asked_about_a_corpus_that_is_not_there(client: Client) -> None:
    done = await ended(client, await client.start_run("corpus_admin", {"action": "delete", "name": "other"}))
    assert (done.state, done.error.reason) == (RunState.RUN_STATE_FAILED, "CORPUS_NOT_FOUND")
    assert [wait async for wait in client.list_waits()] == []


async def test_a_user_without_the_right_learns_nothing_of_the_tool(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        await client.upload_corpus("mine", CONTENT)
        done = await ended(client, await client.start_run("corpus_admin", {"action": "delete", "name": "mine"}))
        assert (done.state, done.error.reason) == (RunState.RUN_STATE_FAILED, "TOOL_NOT_FOUND")
        assert await names(client) == ["mine"]


async def test_an_unknown_action_is_refused_before_anything_is_done(client: Client) -> None:
    done = await ended(client, await client.start_run("corpus_admin", {"action": "burn", "name": "mine"}))
    assert done.error.reason == "INVALID_INPUT" and "validate" in done.error.message
