"""The client without a loop: the same methods, the same errors, and nothing left running."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from carrel import Client, SyncClient
from carrel.client import Admin
from carrel.errors import NotFound, Unavailable
from carrel.sync import SyncAdmin
from carrel_chassis.stack.ports import free_ports
from tests.support.system import Person, System


@pytest.fixture
def client(system: System, ada: Person) -> Iterator[SyncClient]:
    with SyncClient(system.addresses["gateway"], ada.token) as client:
        yield client


def test_it_has_every_method_of_the_client() -> None:
    def public(kind: type) -> set[str]:
        return {name for name, member in inspect.getmembers(kind, callable) if not name.startswith("_")}

    assert public(SyncClient) == public(Client)
    assert public(SyncAdmin) == public(Admin)
    assert SyncClient.start_run.__doc__ == Client.start_run.__doc__


def test_a_run_from_its_start_to_its_end(client: SyncClient) -> None:
    run = client.start_run("echo", {"text": "hello"})
    events = list(client.watch_run(run.run_id))
    assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
    assert [listed.run_id for listed in client.list_runs()] == [run.run_id]
    assert client.get_run(run.run_id).result_json


def test_errors_are_those_of_the_client(client: SyncClient) -> None:
    with pytest.raises(NotFound):
        client.get_run("run-of-nobody")
    with SyncClient(f"127.0.0.1:{free_ports(1)[0]}", "token", call_seconds=1) as nobody, pytest.raises(Unavailable):
        nobody.list_agents()


def test_a_stream_that_is_left_does_not_hold_up_the_end(system: System, ada: Person) -> None:
    before = threading.active_count()
    client = SyncClient(system.addresses["gateway"], ada.token)
    run = client.start_run("echo", {"text": "hello"})
    for event in client.subscribe():
        assert event.run_id == run.run_id
        break
    client.close()
    client.close()
    assert threading.active_count() <= before


def test_several_threads_share_one(client: SyncClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda number: client.start_run("echo", {"text": str(number)}), range(16)))
    assert {run.run_id for run in client.list_runs()} == {run.run_id for run in runs}
