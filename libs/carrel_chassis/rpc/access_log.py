"""The access log: one line for every call, with its code and milliseconds, and never its content."""

from __future__ import annotations

import asyncio
import time

import grpc

from carrel_chassis.logs import event_writer
from carrel_chassis.rpc.call import Call, Handler
from carrel_chassis.rpc.layer import Layer


class AccessLog(Layer):
    """Writes `rpc.finished`; a call that its client gave up is CANCELLED and no error."""

    def wrap(self, proceed: Handler) -> Handler:
        finished = event_writer("rpc.finished")

        async def handle(call: Call) -> object:
            begin = time.perf_counter()
            try:
                return await proceed(call)
            except asyncio.CancelledError:
                call.code = grpc.StatusCode.CANCELLED
                raise
            finally:
                user = call.user
                finished(
                    method=call.method,
                    code=call.code.name,
                    ms=round((time.perf_counter() - begin) * 1e3, 2),
                    call_id=call.call_id,
                    caller=call.service,
                    tenant_id=user.tenant_id if user else "",
                    user_id=user.user_id if user else "",
                    run_id=user.run_id if user else "",
                    request_id=user.request_id if user else "",
                )

        return handle
