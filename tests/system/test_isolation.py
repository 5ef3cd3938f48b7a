"""The ten promises of isolation, each on the whole running system: real processes, real engines, real clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import grpc
import pytest

from carrel import Client
from carrel.api.context.v1 import context_service_pb2 as context_pb
from carrel.api.context.v1 import context_service_pb2_grpc as context_rpc
from carrel.api.runs.v1.run_pb2 import RunState
from carrel.errors import CarrelClientError, NotFound
from tests.support.expect import refused
from tests.support.follow import Follower, following
from tests.support.system import Person, System


async def collect(listing) -> list:
    return [item async for item in listing]


def first_event(client: Client) -> Callable[[str], Awaitable[object]]:
    async def ask(run_id: str) -> object:
        async with aclosing(client.watch_run(run_id)) as events:
            return await anext(events)

    return ask


async def start(follower: Follower, agent: str, **arguments: object) -> str:
    return (await follower.client.start_run(agent, arguments)).run_id


async def test_1_each_of_two_concurrent_users_receives_own_events_only(
    system: System, ada: Person, eve: Person
) -> None:
    async with following(system, ada, eve) as (a, e):
        starts = [start(follower, "counting", calls=3) for follower in (a, e) for _ in range(5)]
        ids = await asyncio.gather(*starts)
        await a.until_final(*ids[:5])
        await e.until_final(*ids[5:])
        for follower, own in ((a, ids[:5]), (e, ids[5:])):
            follower.check()
            assert {event.run_id for event in follower.events} == set(own)
            for run_id in own:
                follower.check_five(run_id)


async def test_2_agents_are_not_shared_between_runs_or_users(system: System, ada: Person, eve: Person) -> None:
    async with following(system, ada, eve) as (a, e):
        results = []
        for follower, secret in ((a, "first secret"), (e, "second secret"), (a, "third secret")):
            run_id = await start(follower, "hoarder", secret=secret)
            await follower.until_final(run_id)
            results.append(json.loads((await follower.client.get_run(run_id)).result_json))
        for result, secret in zip(results, ("first secret", "second secret", "third secret"), strict=True):
            assert result["found"] == {"kept": None, "attributes": []}
            assert result["kept_now"] == secret
        # At the same time, too: each of ten runs finds an untouched instance of its own.
        starts = [start(f, "hoarder", secret=f"{f.person.user_id}-{n}") for f in (a, e) for n in range(5)]
        ids = await asyncio.gather(*starts)
        await a.until_final(*ids[:5])
        await e.until_final(*ids[5:])
        for follower, own in ((a, ids[:5]), (e, ids[5:])):
            for run_id in own:
                result = json.loads((await follower.client.get_run(run_id)).result_json)
                assert result["found"] == {"kept": None, "attributes": []}
                assert result["kept_now"].startswith(follower.person.user_id)


async def test_3_a_running_run_is_invisible_to_another_user(system: System, ada: Person, eve: Person) -> None:
    async with following(system, ada, eve) as (a, e):
        run_id = await start(a, "sleeper", seconds=1.5)
        await a.until(lambda: "agent_started" in a.types(run_id))
        answers = set()
        for foreign in (run_id, "run-" + "0" * 31 + "7"):  # a real one of another user, and one that never was
            for ask in (e.client.get_run, e.client.cancel_run, first_event(e.client)):
                with pytest.raises(NotFound) as refusal:
                    await ask(foreign)
                answers.add((refusal.value.reason, refusal.value.message.replace(foreign, "ID")))
        assert len(answers) == 1, "another user's run and one that never was look alike"
        assert await collect(e.client.list_runs()) == []
        assert await collect(e.client.list_tool_calls(run_id)) == []
        page = await e.client.list_events(run_id=run_id)
        assert list(page.events) == []
        await a.until_final(run_id)
        assert (await a.client.get_run(run_id)).state == RunState.RUN_STATE_SUCCEEDED, "the attempts changed nothing"
        assert e.events == []


async def test_4_database_sessions_are_never_shared(system: System) -> None:
    """Twenty users at once on a pool of eight connections for each service: every answer is the asker's own."""
    people = [await system.person() for _ in range(20)]
    async with following(system, *people) as followers:

        async def use(follower: Follower) -> None:
            run_id = await start(follower, "echo", text=follower.person.user_id)
            await follower.until_final(run_id)
            for _ in range(5):
                runs = await collect(follower.client.list_runs())
                assert [run.run_id for run in runs] == [run_id]
                calls = await collect(follower.client.list_tool_calls())
                assert [call.run_id for call in calls] == [run_id]
            assert json.loads((await follower.client.get_run(run_id)).result_json)["text"] == follower.person.user_id

        await asyncio.gather(*map(use, followers))
        for follower in followers:
            follower.check()


async def test_5_a_slow_user_does_not_delay_a_fast_one(
    system: System, ada: Person, eve: Person, record_property
) -> None:
    async with following(system, ada, eve) as (slow, fast):
        begin = time.monotonic()
        slow_id = await start(slow, "sleeper", seconds=1.0)
        await slow.until(lambda: "agent_started" in slow.types(slow_id))
        fast_id = await start(fast, "sleeper", seconds=0.1)
        await fast.until_final(fast_id)
        fast_seconds = time.monotonic() - begin
        state = (await slow.client.get_run(slow_id)).state
        await slow.until_final(slow_id)
        slow_seconds = time.monotonic() - begin
        record_property("fast_seconds", fast_seconds)
        record_property("slow_seconds", slow_seconds)
        print(f"the 0.1 s agent took {fast_seconds:.3f} s beside a 1.0 s agent that took {slow_seconds:.3f} s")
        assert state == RunState.RUN_STATE_RUNNING, "the fast user was done while the slow one still ran"
        assert fast_seconds < slow_seconds


@pytest.mark.parametrize(
    "placeholder", ["none", "Registry", "placeholder", "undefined", "null", "0", "TEST", "default"]
)
async def test_6_placeholder_ids_are_refused(system: System, ada: Person, placeholder: str) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        for attempt in (
            client.start_run("echo", {"text": "x"}, thread_id=placeholder),
            client.start_run("echo", {"text": "x"}, request_id=placeholder),
            client.get_run(placeholder),
            client.cancel_run(placeholder),
            client.upload_corpus(placeholder, b"a\n1\n"),
        ):
            with pytest.raises(CarrelClientError) as refusal:
                await attempt
            assert refusal.value.reason == "INVALID_ID", refusal.value.message
        assert await collect(client.list_runs()) == []
    peer = system.peer("context", "gateway")
    stub: context_rpc.ContextServiceAsyncStub = context_rpc.ContextServiceStub(peer.channel)
    for fields in ({"tenant_id": placeholder}, {"user_id": placeholder}, {"session_id": placeholder}):
        user = {"tenant_id": "acme", "user_id": "ada", "session_id": "session-1", **fields}
        request = context_pb.IssueContextRequest(user=context_pb.AuthenticatedUser(**user), request_id="request-1")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID"):
            await stub.IssueContext(request, metadata=peer.metadata())


async def test_7_runs_and_tool_calls_are_counted_exactly_for_each_user(
    system: System, ada: Person, eve: Person
) -> None:
    async with following(system, ada, eve) as (a, e):
        plan = ((a, 3, 4), (e, 2, 7))
        ids = {
            follower.person.user_id: await asyncio.gather(
                *(start(follower, "counting", calls=calls) for _ in range(runs))
            )
            for follower, runs, calls in plan
        }
        for follower, runs, calls in plan:
            own = ids[follower.person.user_id]
            await follower.until_final(*own)
            assert {run.run_id for run in await collect(follower.client.list_runs())} == set(own)
            tool_calls = await collect(follower.client.list_tool_calls())
            assert len(tool_calls) == runs * calls
            assert {call.run_id for call in tool_calls} == set(own)
            assert follower.types().count("tool_executing") == follower.types().count("tool_completed") == runs * calls


async def test_8_the_death_of_an_agent_is_told_to_its_user_alone(system: System, ada: Person, eve: Person) -> None:
    async with following(system, ada, eve) as (a, e):
        steady = await start(e, "sleeper", seconds=0.3)
        dying = await start(a, "dying")
        await a.until_final(dying)
        await e.until_final(steady)
        [death] = [event for event in a.events if event.type == "agent_died"]
        assert death.final and death.run_id == dying and death.agent_died.cause
        assert (await a.client.get_run(dying)).state == RunState.RUN_STATE_DEAD
        assert "agent_died" not in e.types()
        assert (await e.client.get_run(steady)).state == RunState.RUN_STATE_SUCCEEDED
        a.check()
        e.check()


async def test_9_tool_dispatch_works_for_each_user_with_own_tools_and_own_files(
    system: System, ada: Person, eve: Person
) -> None:
    async with following(system, ada, eve) as (a, e):
        for follower, rows in ((a, 3), (e, 5)):
            owner = follower.person.user_id
            await follower.client.upload_corpus("trace", ("owner\n" + f"{owner}\n" * rows).encode())
        for follower, rows in ((a, 3), (e, 5)):
            ids = await asyncio.gather(*(start(follower, "reader") for _ in range(4)))
            await follower.until_final(*ids)
            for run_id in ids:
                result = json.loads((await follower.client.get_run(run_id)).result_json)
                assert result == {"rows": rows, "owner": follower.person.user_id}
        for follower in (a, e):
            assert len(await collect(follower.client.list_tool_calls())) == 4
            assert [corpus.name for corpus in await collect(follower.client.list_corpora())] == ["trace"]
            assert "corpus_delete" not in {tool.name for tool in await follower.client.list_tools()}
        await a.client.delete_corpus("trace")
        run_id = await start(e, "reader")
        await e.until_final(run_id)
        assert (await e.client.get_run(run_id)).state == RunState.RUN_STATE_SUCCEEDED, (
            "the other's file of that name is there"
        )


@pytest.mark.parametrize("users", [10, 100])
async def test_10_many_users_with_three_agents_each_all_succeed_and_stay_alone(system: System, users: int) -> None:
    people = await asyncio.gather(*(system.person() for _ in range(users)))
    async with following(system, *people) as followers:

        async def work(follower: Follower) -> None:
            ids = [
                await start(follower, "echo", text=follower.person.user_id),
                await start(follower, "counting", calls=2),
                await start(follower, "sleeper", seconds=0.05),
            ]
            await follower.until_final(*ids, seconds=90)
            follower.check()
            assert {event.run_id for event in follower.events} == set(ids)
            for run_id in ids:
                follower.check_five(run_id)
            states = {run.state for run in await collect(follower.client.list_runs())}
            assert states == {RunState.RUN_STATE_SUCCEEDED}

        await asyncio.gather(*map(work, followers))
