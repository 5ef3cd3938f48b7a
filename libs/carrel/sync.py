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
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from carrel.client import Client

P = ParamSpec("P")
T = TypeVar("T")

_END: Any = object()


def _waited(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """The method, returning when it is done."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._client, *args, **kwargs))

    return call


def _iterated(
    method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[SyncClient, P], Iterator[T]]:
    """The method, as an iterator; whoever leaves it early closes it with `close()`, or by dropping it."""

    @functools.wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._client, *args, **kwargs)
        try:
            while (item := self._wait(_next(items))) is not _END:
                yield item
        finally:
            self._leave(items)

    return call


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items, _END)


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


class SyncClient:
    """A user's connection to Carrel; takes what Client takes, raises what it raises, and may be used by several threads."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        call_seconds: float = 30.0,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="carrel", daemon=True)
        self._thread.start()
        self._client = self._wait(_made(address, token, credentials, call_seconds))

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, every call on it, and the thread; again it does nothing."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    start_run = _waited(Client.start_run)
    get_run = _waited(Client.get_run)
    list_runs = _iterated(Client.list_runs)
    cancel_run = _waited(Client.cancel_run)
    watch_run = _iterated(Client.watch_run)
    subscribe = _iterated(Client.subscribe)
    list_events = _waited(Client.list_events)
    list_agents = _waited(Client.list_agents)
    list_tools = _waited(Client.list_tools)
    list_tool_calls = _iterated(Client.list_tool_calls)
    create_thread = _waited(Client.create_thread)
    get_thread = _waited(Client.get_thread)
    list_threads = _iterated(Client.list_threads)
    rename_thread = _waited(Client.rename_thread)
    delete_thread = _waited(Client.delete_thread)
    upload_corpus = _waited(Client.upload_corpus)
    list_corpora = _iterated(Client.list_corpora)
    delete_corpus = _waited(Client.delete_corpus)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: the call is given up too
            raise

    def _leave(self, items: AsyncGenerator[T, None]) -> None:
        if self._loop.is_closed():
            return
        closing = asyncio.run_coroutine_threadsafe(_closed(items), self._loop)
        if (
            current_thread() is not self._thread
        ):  # an iterator that was dropped may be collected there: it must not wait for itself
            closing.result()


async def _made(address: str, token: str, credentials: grpc.ChannelCredentials | None, call_seconds: float) -> Client:
    """Within the loop in which it is used."""
    return Client(address, token, credentials=credentials, call_seconds=call_seconds)
