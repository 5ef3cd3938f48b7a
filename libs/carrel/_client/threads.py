"""Threads, in which runs follow each other, and sessions, the ways in that the user has used."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from carrel._client.base import Calls, listed, new_request_id
from carrel.api.context.v1.session_pb2 import Session
from carrel.api.context.v1.thread_pb2 import Thread
from carrel.api.gateway.v1 import gateway_service_pb2 as pb


class ThreadCalls(Calls):
    """The user's threads."""

    async def create_thread(self, title: str = "", request_id: str | None = None) -> Thread:
        """A new thread: give its id to `start_run`. The same `request_id` again returns the same thread; None makes a new one."""
        request = pb.CreateThreadRequest(request_id=new_request_id(request_id), title=title)
        return (await self._caller.repeat(self._stub.CreateThread, request)).thread

    async def get_thread(self, thread_id: str) -> Thread:
        """A thread; NotFound when it is absent or another user's."""
        return (await self._caller.repeat(self._stub.GetThread, pb.GetThreadRequest(thread_id=thread_id))).thread

    def list_threads(self, *, page_size: int = 0) -> AsyncGenerator[Thread, None]:
        """The user's threads, newest first; pages are fetched as they are needed."""
        request = pb.ListThreadsRequest(page_size=page_size)
        return listed(self._caller, self._stub.ListThreads, request, "threads")

    async def rename_thread(self, thread_id: str, title: str) -> Thread:
        """Gives a thread another title; its id stays."""
        request = pb.RenameThreadRequest(thread_id=thread_id, title=title)
        return (await self._caller.repeat(self._stub.RenameThread, request)).thread

    async def delete_thread(self, thread_id: str) -> None:
        """Takes a thread off the list; its runs stay. NotFound when it is absent or another user's."""
        await self._caller.once(self._stub.DeleteThread, pb.DeleteThreadRequest(thread_id=thread_id))


class SessionCalls(Calls):
    """The user's sessions."""

    def list_sessions(self, *, page_size: int = 0) -> AsyncGenerator[Session, None]:
        """The user's sessions, newest first; pages are fetched as they are needed."""
        request = pb.ListSessionsRequest(page_size=page_size)
        return listed(self._caller, self._stub.ListSessions, request, "sessions")

    async def end_session(self, session_id: str) -> None:
        """Ends a session: its calls are refused within 2 seconds, and its runs are cancelled. Ending this client's own is allowed."""
        await self._caller.once(self._stub.EndSession, pb.EndSessionRequest(session_id=session_id))
