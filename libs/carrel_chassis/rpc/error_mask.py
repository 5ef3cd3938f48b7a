"""Errors on their way out: a CarrelError becomes its status; anything else becomes INTERNAL with an id, and its story stays in the log."""

from __future__ import annotations

import asyncio
import secrets

import grpc

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_chassis.rpc.call import Call, Handler
from carrel_chassis.rpc.layer import Layer
from carrel_chassis.rpc.status import CODES, to_status

_LEAVING_SECONDS = 0.001
"""A refusal waits so long for word that its caller has left: then nothing is sent, and the call ends as cancelled. grpcio keeps what it
could not send for ever (grpc/grpc#43360), 300 bytes for each call that was begun and reset at once, and those come in floods."""


class ErrorMask(Layer):
    """Answers a failed call."""

    def wrap(self, proceed: Handler) -> Handler:
        log = get_logger()

        async def handle(call: Call) -> object:
            try:
                return await proceed(call)
            except CarrelError as error:
                answer = error
            except grpc.aio.AbortError:
                call.code = call.context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception:
                error_id = secrets.token_hex(8)
                log.exception("rpc.failed", method=call.method, error_id=error_id, call_id=call.call_id)
                answer = CarrelError(
                    Kind.INTERNAL,
                    "INTERNAL",
                    f"Something went wrong on our side; the log knows it as {error_id}.",
                    metadata={"error_id": error_id},
                )
            # Outside of the except blocks: what is raised here must not drag the first error's trace along.
            call.code = CODES[answer.kind]
            await asyncio.sleep(_LEAVING_SECONDS)
            return await call.context.abort_with_status(to_status(answer))

        return handle
