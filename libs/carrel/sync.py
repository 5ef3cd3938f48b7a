"""The client for programs without an event loop: the same calls, each waited for. The async client does the work, in a thread of its own.

with SyncClient("127.0.0.1:7400", token) as carrel:
    run = carrel.start_run("echo", {"text": "hello"})
    for event in carrel.watch_run(run.run_id):
        print(event.type)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from threading import Thread, current_thread
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import grpc

from carrel.client import Admin, Client

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")

_END: Any = object()


def _waited(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Waiting[A], P], T]:
    """The method, returning when it is done."""

    @functools.wraps(method)
    def call(self: _Waiting[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.wait(method(self._calls, *args, **kwargs))

    return call


def _iterated(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_Waiting[A], P], Iterator[T]]:
    """The method, as an iterator; whoever leaves it early closes it with `close()`, or by dropping it."""

    @functools.wraps(method)
    def call(self: _Waiting[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._calls, *args, **kwargs)
        try:
            while (item := self._thread.wait(_next(items))) is not _END:
                yield item
        finally:
            self._thread.leave(items)

    return call


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items, _END)


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="carrel", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._loop.is_closed()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to in the loop."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: the call is given up too
            raise

    def leave(self, items: AsyncGenerator[T, None]) -> None:
        """Closes a generator of the loop."""
        if self.closed:
            return
        closing = asyncio.run_coroutine_threadsafe(_closed(items), self._loop)
        # An iterator that was dropped may be collected in the thread itself, which must not wait for itself.
        if current_thread() is not self._thread:
            closing.result()

    def close(self) -> None:
        """Ends the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Waiting(Generic[A]):
    """Calls that are made in the loop and waited for."""

    def __init__(self, calls: A, thread: _LoopThread) -> None:
        self._calls = calls
        self._thread = thread


class SyncAdmin(_Waiting[Admin]):
    """The administrator's calls; found at `client.admin`."""

    create_tenant = _waited(Admin.create_tenant)
    list_tenants = _iterated(Admin.list_tenants)
    create_user = _waited(Admin.create_user)
    get_user = _waited(Admin.get_user)
    list_users = _iterated(Admin.list_users)
    update_user = _waited(Admin.update_user)
    create_api_key = _waited(Admin.create_api_key)
    list_api_keys = _iterated(Admin.list_api_keys)
    revoke_api_key = _waited(Admin.revoke_api_key)
    get_limits = _waited(Admin.get_limits)
    set_limits = _waited(Admin.set_limits)
    revoke = _waited(Admin.revoke)
    restore = _waited(Admin.restore)
    inspect_context = _waited(Admin.inspect_context)
    rotate_signing_keys = _waited(Admin.rotate_signing_keys)
    list_service_identities = _waited(Admin.list_service_identities)
    get_overall_run_statistics = _waited(Admin.get_overall_run_statistics)
    inspect_worker = _waited(Admin.inspect_worker)
    get_tool_policy = _waited(Admin.get_tool_policy)
    set_tool_policy = _waited(Admin.set_tool_policy)
    test_tool_policy = _waited(Admin.test_tool_policy)
    list_tool_decisions = _iterated(Admin.list_tool_decisions)


class SyncClient(_Waiting[Client]):
    """A user's connection to Carrel; takes what Client takes, raises what it raises, and may be used by several threads."""

    admin: SyncAdmin
    """The calls of administrators."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        call_seconds: float = 30.0,
    ) -> None:
        thread = _LoopThread()
        super().__init__(thread.wait(_made(address, token, credentials, call_seconds)), thread)
        self.admin = SyncAdmin(self._calls.admin, thread)

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, every call on it, and the thread; again it does nothing."""
        if not self._thread.closed:
            self._thread.wait(self._calls.close())
            self._thread.close()

    start_run = _waited(Client.start_run)
    get_run = _waited(Client.get_run)
    list_runs = _iterated(Client.list_runs)
    cancel_run = _waited(Client.cancel_run)
    cancel_run_and_wait = _waited(Client.cancel_run_and_wait)
    repeat_run = _waited(Client.repeat_run)
    list_steps = _iterated(Client.list_steps)
    list_waits = _iterated(Client.list_waits)
    answer_wait = _waited(Client.answer_wait)
    decide_wait = _waited(Client.decide_wait)
    get_run_statistics = _waited(Client.get_run_statistics)
    get_model_usage = _waited(Client.get_model_usage)
    list_agents = _waited(Client.list_agents)
    watch_run = _iterated(Client.watch_run)
    wait_for_run = _waited(Client.wait_for_run)
    subscribe = _iterated(Client.subscribe)
    list_events = _waited(Client.list_events)
    get_run_state = _waited(Client.get_run_state)
    create_schedule = _waited(Client.create_schedule)
    get_schedule = _waited(Client.get_schedule)
    list_schedules = _iterated(Client.list_schedules)
    pause_schedule = _waited(Client.pause_schedule)
    delete_schedule = _waited(Client.delete_schedule)
    create_thread = _waited(Client.create_thread)
    get_thread = _waited(Client.get_thread)
    list_threads = _iterated(Client.list_threads)
    rename_thread = _waited(Client.rename_thread)
    delete_thread = _waited(Client.delete_thread)
    list_sessions = _iterated(Client.list_sessions)
    end_session = _waited(Client.end_session)
    list_tools = _waited(Client.list_tools)
    get_tool = _waited(Client.get_tool)
    cancel_tool = _waited(Client.cancel_tool)
    list_tool_calls = _iterated(Client.list_tool_calls)
    list_tool_decisions = _iterated(Client.list_tool_decisions)
    upload_corpus = _waited(Client.upload_corpus)
    download_corpus = _waited(Client.download_corpus)
    read_corpus = _waited(Client.read_corpus)
    erase_corpora = _waited(Client.erase_corpora)
    get_corpus = _waited(Client.get_corpus)
    list_corpora = _iterated(Client.list_corpora)
    delete_corpus = _waited(Client.delete_corpus)


async def _made(address: str, token: str, credentials: grpc.ChannelCredentials | None, call_seconds: float) -> Client:
    """Within the loop in which it is used."""
    return Client(address, token, credentials=credentials, call_seconds=call_seconds)
