"""SessionService as it is called: proto in, proto out."""

from __future__ import annotations

from typing import Any

from carrel.api.context.v1 import session_pb2
from carrel.api.context.v1 import session_service_pb2 as pb
from carrel.api.context.v1 import session_service_pb2_grpc as rpc
from carrel_chassis.rpc.call import caller, current_call
from carrel_context.sessions import Session, SessionOperations


class SessionServicer(rpc.SessionServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, operations: SessionOperations) -> None:
        self._operations = operations

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        user = caller()
        found, token = await self._operations.list(user, current_call().call_id, request.page_size, request.page_token)
        sessions = [_message(session, user.session_id) for session in found]
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def EndSession(self, request: pb.EndSessionRequest, context: Any) -> pb.EndSessionResponse:
        await self._operations.end(caller(), current_call().call_id, request.session_id)
        return pb.EndSessionResponse()


def _message(session: Session, current: str) -> session_pb2.Session:
    message = session_pb2.Session(
        session_id=session.session_id,
        kind=session_pb2.SessionKind.Value(f"SESSION_KIND_{session.kind}"),
        ended=session.ended,
        current=session.session_id == current,
    )
    message.create_time.FromDatetime(session.create_time)
    message.last_seen_time.FromDatetime(session.last_seen_time)
    return message
