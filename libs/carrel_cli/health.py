"""Asking the services of a running system how they are, by the standard gRPC health check."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc

from carrel_chassis.probe import OPTIONS, ask
from carrel_chassis.rpc.tls import PeerTls
from carrel_chassis.stack import SERVICES, Service
from carrel_chassis.stack.certificates import operator_tls
from carrel_chassis.stack.layout import GATEWAY

_CALL_SECONDS = 3.0


async def healths(data_dir: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """For each service that has an address: `SERVING`, `NOT_SERVING`, or the status code of the call that failed.

    Raises OSError when the system has certificates that cannot be used.
    """
    tls = operator_tls(data_dir)
    asked = [service for service in SERVICES if service.name in addresses]
    states = await asyncio.gather(*(_state(_channel(tls, it, addresses[it.name])) for it in asked))
    return {service.name: state for service, state in zip(asked, states, strict=True)}


def _channel(tls: PeerTls | None, service: Service, address: str) -> grpc.aio.Channel:
    """The gateway's face is for everybody: it asks for no certificate."""
    if tls is None or service == GATEWAY:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return tls.channel(service.identity, address, OPTIONS)


async def _state(channel: grpc.aio.Channel) -> str:
    try:
        return await ask(health_pb2_grpc.HealthStub(channel), _CALL_SECONDS)
    finally:
        await channel.close()
