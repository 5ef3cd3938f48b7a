"""The gateway's own methods, from its protos: what each takes and answers. It knows neither a face nor a service behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from carrel.api.gateway.v1 import admin_service_pb2, gateway_service_pb2

SERVICES: tuple[ServiceDescriptor, ...] = (
    gateway_service_pb2.DESCRIPTOR.services_by_name["GatewayService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
METHODS: Mapping[str, MethodDescriptor] = {method.name: method for service in SERVICES for method in service.methods}
"""By name, which is unique over both services."""


def request_type(method: str) -> type[Message]:
    """The class of the method's request."""
    return _class(METHODS[method].input_type)


def response_type(method: str) -> type[Message]:
    """The class of the method's answer."""
    return _class(METHODS[method].output_type)


def _class(descriptor: Any) -> type[Message]:
    found: type[Message] = GetMessageClass(descriptor)
    return found
