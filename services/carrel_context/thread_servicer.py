"""ThreadService as it is called: proto in, proto out."""

from __future__ import annotations

from typing import Any

from carrel.api.context.v1 import thread_pb2
from carrel.api.context.v1 import thread_service_pb2 as pb
from carrel.api.context.v1 import thread_service_pb2_grpc as rpc
from carrel_chassis.rpc.call import caller, current_call
from carrel_context.threads import Thread, ThreadOperations


class ThreadServicer(rpc.ThreadServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, operations: ThreadOperations) -> None:
        self._operations = operations

    async def CreateThread(self, request: pb.CreateThreadRequest, context: Any) -> pb.CreateThreadResponse:
        call_id = current_call().call_id
        thread = await self._operations.create(caller(), call_id, request.request_id, request.title)
        return pb.CreateThreadResponse(thread=_message(thread))

    async def GetThread(self, request: pb.GetThreadRequest, context: Any) -> pb.GetThreadResponse:
        thread = await self._operations.get(caller(), current_call().call_id, request.thread_id)
        return pb.GetThreadResponse(thread=_message(thread))

    async def ListThreads(self, request: pb.ListThreadsRequest, context: Any) -> pb.ListThreadsResponse:
        call_id = current_call().call_id
        threads, token = await self._operations.list(caller(), call_id, request.page_size, request.page_token)
        return pb.ListThreadsResponse(threads=[_message(thread) for thread in threads], next_page_token=token)

    async def RenameThread(self, request: pb.RenameThreadRequest, context: Any) -> pb.RenameThreadResponse:
        call_id = current_call().call_id
        thread = await self._operations.rename(caller(), call_id, request.thread_id, request.title)
        return pb.RenameThreadResponse(thread=_message(thread))

    async def DeleteThread(self, request: pb.DeleteThreadRequest, context: Any) -> pb.DeleteThreadResponse:
        await self._operations.delete(caller(), current_call().call_id, request.thread_id)
        return pb.DeleteThreadResponse()


def _message(thread: Thread) -> thread_pb2.Thread:
    message = thread_pb2.Thread(thread_id=thread.thread_id, title=thread.title)
    message.create_time.FromDatetime(thread.create_time)
    message.update_time.FromDatetime(thread.update_time)
    return message
