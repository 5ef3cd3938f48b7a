"""Threads: a user's own, with ids that stay, over both faces of the gateway."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest

from carrel import Client
from carrel.api.context.v1 import thread_service_pb2 as pb
from carrel.api.context.v1 import thread_service_pb2_grpc as rpc
from carrel.errors import NotFound
from tests.support.expect import refused
from tests.support.system import Person, System


def threads(system: System) -> rpc.ThreadServiceAsyncStub:
    stub: rpc.ThreadServiceAsyncStub = rpc.ThreadServiceStub(system.peer("context").channel)
    return stub


async def test_a_threads_id_is_stable_over_its_name_and_its_runs(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        thread = await client.create_thread("Bills", request_id="request-1")
        assert (await client.create_thread("Bills", request_id="request-1")).thread_id == thread.thread_id
        renamed = await client.rename_thread(thread.thread_id, "Bills of May")
        assert (renamed.thread_id, renamed.title) == (thread.thread_id, "Bills of May")
        runs = [await client.start_run("echo", {"text": "x"}, thread.thread_id) for _ in range(2)]
        assert {run.thread_id for run in runs} == {thread.thread_id}
        assert [run.run_id async for run in client.list_runs(thread_id=thread.thread_id)] == [
            run.run_id for run in reversed(runs)
        ]
        await client.delete_thread(thread.thread_id)
        with pytest.raises(NotFound):
            await client.get_thread(thread.thread_id)


async def test_threads_are_listed_newest_first_by_page(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        made = [(await client.create_thread(f"thread {number}")).thread_id for number in range(5)]
        assert [thread.thread_id async for thread in client.list_threads(page_size=2)] == made[::-1]


async def test_another_user_does_not_see_the_thread(system: System, ada: Person, eve: Person) -> None:
    colleague = await system.person(ada.tenant_id)
    stub = threads(system)
    made = await stub.CreateThread(
        pb.CreateThreadRequest(request_id="request-1", title="private"), metadata=ada.metadata, timeout=5
    )
    thread_id = made.thread.thread_id
    for other in (eve, colleague):
        for call, request in (
            (stub.GetThread, pb.GetThreadRequest(thread_id=thread_id)),
            (stub.RenameThread, pb.RenameThreadRequest(thread_id=thread_id, title="mine")),
            (stub.DeleteThread, pb.DeleteThreadRequest(thread_id=thread_id)),
        ):
            with refused(grpc.StatusCode.NOT_FOUND, "THREAD_NOT_FOUND"):
                await call(request, metadata=other.metadata, timeout=5)  # type: ignore[operator]
        listed = await stub.ListThreads(pb.ListThreadsRequest(), metadata=other.metadata, timeout=5)
        assert list(listed.threads) == []


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("CreateThread", pb.CreateThreadRequest(title="x"), "INVALID_ID"),
        ("CreateThread", pb.CreateThreadRequest(request_id="none", title="x"), "INVALID_ID"),
        ("CreateThread", pb.CreateThreadRequest(request_id="r-1", title="x" * 257), "INVALID_ARGUMENT"),
        ("CreateThread", pb.CreateThreadRequest(request_id="r-1", title="a\nb"), "INVALID_ARGUMENT"),
        ("CreateThread", pb.CreateThreadRequest(request_id="r-1", title="a\0b"), "INVALID_ARGUMENT"),
        ("GetThread", pb.GetThreadRequest(thread_id="x" * 1_000_000), "INVALID_ID"),
        ("RenameThread", pb.RenameThreadRequest(thread_id="<b>", title="x"), "INVALID_ID"),
        ("ListThreads", pb.ListThreadsRequest(page_size=201), "INVALID_ARGUMENT"),
        ("ListThreads", pb.ListThreadsRequest(page_token="elsewhere"), "CURSOR_INVALID"),
    ],
)
async def test_a_wrong_request_is_refused(system: System, ada: Person, method: str, request_: Any, reason: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, reason) as refusal:
        await getattr(threads(system), method)(request_, metadata=ada.metadata, timeout=5)
    assert refusal.error.fields


async def test_a_request_id_with_another_title_is_refused(system: System, ada: Person) -> None:
    stub = threads(system)
    await stub.CreateThread(pb.CreateThreadRequest(request_id="r-1", title="a"), metadata=ada.metadata, timeout=5)
    with refused(grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED"):
        await stub.CreateThread(pb.CreateThreadRequest(request_id="r-1", title="b"), metadata=ada.metadata, timeout=5)


async def test_threads_over_http(system: System, ada: Person) -> None:
    headers = {"authorization": f"Bearer {ada.token}"}
    base = f"http://{system.addresses['gateway_http']}/v1/threads"
    async with httpx.AsyncClient(headers=headers) as http:
        made = (await http.post(base, json={"title": "Bills"})).raise_for_status().json()
        path = f"{base}/{made['thread_id']}"
        assert (await http.patch(path, json={"title": "Bills of May"})).json()["title"] == "Bills of May"
        assert (await http.get(path)).json()["thread_id"] == made["thread_id"]
        assert [thread["title"] for thread in (await http.get(base)).json()["threads"]] == ["Bills of May"]
        assert (await http.delete(path)).status_code == 204
        assert (await http.get(path)).status_code == 404
