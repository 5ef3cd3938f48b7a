"""Telemetry: a span and a duration for every call, under the names of OpenTelemetry's RPC conventions (release candidate, 2026).

Written on the API because the instrumentation package gets streams, cancellations and deadlines of grpc.aio wrong.
"""

from __future__ import annotations

import time

import grpc
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from carrel_chassis.rpc.call import Call, Handler
from carrel_chassis.rpc.layer import Layer

_PROPAGATOR = TraceContextTextMapPropagator()
_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNIMPLEMENTED}
"""The codes that are the server's fault, not the caller's; only these mark a span as failed."""


class Telemetry(Layer):
    """Opens the server span as a child of the caller's, and records `rpc.server.call.duration` in seconds."""

    def wrap(self, proceed: Handler) -> Handler:
        tracer = trace.get_tracer("carrel")
        duration = metrics.get_meter("carrel").create_histogram("rpc.server.call.duration", unit="s")

        async def handle(call: Call) -> object:
            begin = time.perf_counter()
            parent = _PROPAGATOR.extract(call.metadata) if "traceparent" in call.metadata else None
            attributes = {"rpc.system.name": "grpc", "rpc.method": call.method}
            name = call.method[1:]
            with tracer.start_as_current_span(
                name, parent, SpanKind.SERVER, attributes, record_exception=False
            ) as span:
                try:
                    return await proceed(call)
                finally:
                    code = call.code.name
                    if span.is_recording():
                        span.set_attribute("rpc.response.status_code", code)
                        if call.code in _FAULTS:
                            span.set_status(StatusCode.ERROR)
                    duration.record(
                        time.perf_counter() - begin, attributes={**attributes, "rpc.response.status_code": code}
                    )

        return handle
