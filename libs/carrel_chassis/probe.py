"""`python -m carrel_chassis.probe HOST:PORT`: asks a service by the standard gRPC health check whether it serves.

For the health checks of containers: it ends with 0 when the answer is SERVING, else with 1 and a sentence. It runs where the service
runs and reads the same settings: with TLS it shows the service's own certificate and believes the one that the service has.
It imports little, because it runs every few seconds beside each service.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

CALL_SECONDS = 1.0
_SECRETS, _HTTP, _FACE = "CARREL_SECRETS_DIR", "CARREL_HTTP_LISTEN", "CARREL_TLS_CERT_FILE"
_AUTHORITY, _CERTIFICATE, _KEY = "CARREL_PEER_CA_FILE", "CARREL_PEER_CERT_FILE", "CARREL_PEER_KEY_FILE"
OPTIONS = [
    # The default back-off starts at a second, which is most of a start.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


async def state_of(
    address: str, seconds: float = CALL_SECONDS, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """What the server says of itself as a whole (service name ""): SERVING, NOT_SERVING, or why it says nothing.

    `environment` is that of the service. Raises OSError or ValueError when the certificate that it names cannot be read.
    """
    async with open_channel(address, environment) as channel:
        return await ask(health_pb2_grpc.HealthStub(channel), seconds)


def open_channel(address: str, environment: Mapping[str, str]) -> grpc.aio.Channel:
    """A channel to a server with these settings, in the open or with TLS."""
    given = {name: _setting(environment, name) for name in (_FACE, _CERTIFICATE, _KEY, _AUTHORITY, _HTTP)}
    if given[_HTTP]:  # the gateway: its face has a certificate of its own, for everybody, or none
        if not given[_FACE]:
            return grpc.aio.insecure_channel(address, options=OPTIONS)
        shown = Path(given[_FACE]).read_bytes()
        return _secure(address, grpc.ssl_channel_credentials(shown), shown)
    if not given[_CERTIFICATE]:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    authority, certificate, key = (Path(given[name]).read_bytes() for name in (_AUTHORITY, _CERTIFICATE, _KEY))
    return _secure(address, grpc.ssl_channel_credentials(authority, key, certificate), certificate)


def _secure(address: str, credentials: grpc.ChannelCredentials, certificate: bytes) -> grpc.aio.Channel:
    """It need not be reached by the name in its certificate: it is asked by an address of this machine."""
    from cryptography import x509

    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    name = str(next(iter(names.value)).value)
    return grpc.aio.secure_channel(address, credentials, options=[*OPTIONS, ("grpc.ssl_target_name_override", name)])


def _setting(environment: Mapping[str, str], name: str) -> str:
    """As the service reads it: from its environment, else from its folder of secrets."""
    if found := environment.get(name, ""):
        return found
    file = Path(environment.get(_SECRETS) or "/nonexistent") / name.lower()
    return file.read_text().strip() if file.is_file() else ""


async def ask(stub: health_pb2_grpc.HealthStub, seconds: float = CALL_SECONDS) -> str:
    """The same over a channel that is kept."""
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str]) -> int:
    """The exit code; a sentence on standard error where it is not 0."""
    if len(arguments) != 1 or ":" not in arguments[0]:
        sys.stderr.write("Name the service to ask: python -m carrel_chassis.probe HOST:PORT\n")
        return 1
    (address,) = arguments
    try:
        state = asyncio.run(state_of(address, environment=os.environ))
    except (OSError, ValueError, LookupError) as error:
        state = f"its certificate cannot be used: {error}"
    if state == "SERVING":
        return 0
    sys.stderr.write(f"{address} does not serve ({state}).\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
