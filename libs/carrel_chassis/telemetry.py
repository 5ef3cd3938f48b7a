"""Where traces and metrics go: a collector and a Prometheus page when they are set, nowhere otherwise."""

from __future__ import annotations

from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import start_http_server

from carrel_chassis.settings import ServiceSettings


def configure_telemetry(service: str, settings: ServiceSettings) -> None:
    """Sets the process's providers up, once, at its start. Without an address nothing is recorded and nothing is paid."""
    resource = Resource.create({"service.name": service, "service.namespace": "carrel"})
    if settings.otlp_endpoint:
        # Imported here: it takes 0.1 s and only few processes need it.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        traces = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=True)
        traces.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(traces)
    if settings.metrics_listen:
        metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()], resource=resource))
        host, _, port = settings.metrics_listen.rpartition(":")
        start_http_server(int(port), host or "127.0.0.1")
