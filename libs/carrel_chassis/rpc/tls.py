"""TLS between services, both sides with a certificate. A certificate says by a DNS name which service it is: "agent-execution".

It knows no call. Certificates are read again when their files change: a server takes the newest for the next connection, a channel
moves the next call to a new connection. Calls and streams under way end on the one that they began on.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from carrel_chassis.logs import get_logger

LOOK_SECONDS = 1.0
"""How often the files are looked at, when something is asked for."""
_NAMES = "x509_subject_alternative_name"
_CLOSE_SECONDS = 3600.0
"""How long what is under way on a replaced connection may go on: as long as a stream lives."""

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Material:
    """What a service shows and what it believes, PEM."""

    ca: bytes
    certificate: bytes
    key: bytes


class PeerTls:
    """The certificate of a service and the authority that all services trust. Raises OSError with a sentence when they cannot be used."""

    def __init__(
        self, ca_file: Path, cert_file: Path, key_file: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = (ca_file, cert_file, key_file)
        self._clock = clock
        self._lock = threading.Lock()  # gRPC asks from threads of its own
        self._stamps = self._seen()
        self._looked = clock()
        try:
            self._material = self._read()
        except (OSError, ValueError) as error:
            names = ", ".join(map(str, self._files))
            raise OSError(f"TLS between services cannot be set up with {names}: {error}") from None

    def material(self) -> Material:
        """The newest that was sound; the same object until the files have changed."""
        with self._lock:
            if self._clock() >= self._looked + LOOK_SECONDS:
                self._looked = self._clock()
                self._look()
            return self._material

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server is bound with: nobody connects without a certificate of the authority."""
        told = self.material()

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal told
            if (found := self.material()) is told:
                return None
            told = found
            return _configuration(found)

        return grpc.dynamic_ssl_server_credentials(_configuration(told), newer, True)  # type: ignore[arg-type]  # None: no change

    def channel(self, service: str, address: str, options: Options) -> grpc.aio.Channel:
        """A channel to a service: whoever listens at the address must show that it is this one."""
        named = [*options, ("grpc.ssl_target_name_override", service), ("grpc.default_authority", service)]

        def open_channel(material: Material) -> grpc.aio.Channel:
            credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)
            return grpc.aio.secure_channel(address, credentials, options=named)

        # It has what is used of a channel here: the four kinds of methods, and close.
        return RenewedChannel(self.material, open_channel)  # type: ignore[return-value]

    def _look(self) -> None:
        """Takes the files as they are now, when they have changed and fit each other; else all stays as it is."""
        stamps = self._seen()
        if stamps == self._stamps:
            return
        try:
            self._material = self._read()
        except (OSError, ValueError) as error:  # in the middle of a change, or wrong: the next look will tell
            get_logger().warning("peer_tls.unusable", error=str(error))
            return
        self._stamps = stamps
        get_logger().info("peer_tls.renewed", cert_file=str(self._files[1]))

    def _seen(self) -> list[tuple[int, int] | None]:
        return [_stamp(path) for path in self._files]

    def _read(self) -> Material:
        ca_file, cert_file, key_file = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(ca_file)
        context.load_cert_chain(cert_file, key_file)  # raises when the key is not that of the certificate
        return Material(ca_file.read_bytes(), cert_file.read_bytes(), key_file.read_bytes())


class RenewedChannel:
    """A channel that is opened anew when there is another certificate. Its methods are made once and stay good."""

    def __init__(self, material: Callable[[], Material], open_channel: Callable[[Material], grpc.aio.Channel]) -> None:
        self._material = material
        self._open = open_channel
        self._opened = material()
        self._channel = open_channel(self._opened)
        self._closing: set[Any] = set()

    def unary_unary(self, *method: Any, **options: Any) -> Callable[..., Any]:
        return self._method("unary_unary", method, options)

    def unary_stream(self, *method: Any, **options: Any) -> Callable[..., Any]:
        return self._method("unary_stream", method, options)

    def stream_unary(self, *method: Any, **options: Any) -> Callable[..., Any]:
        return self._method("stream_unary", method, options)

    def stream_stream(self, *method: Any, **options: Any) -> Callable[..., Any]:
        return self._method("stream_stream", method, options)

    async def close(self, grace: float | None = None) -> None:
        """Closes the connection in use, and those that wait for their last calls."""
        for closing in list(self._closing):
            closing.cancel()
        await self._channel.close(grace)

    def _method(self, shape: str, method: Any, options: Mapping[str, Any]) -> Callable[..., Any]:
        made_on: grpc.aio.Channel | None = None
        callable_: Callable[..., Any]

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal made_on, callable_
            channel = self._current()
            if channel is not made_on:
                made_on, callable_ = channel, getattr(channel, shape)(*method, **options)
            return callable_(*arguments, **more)

        return call

    def _current(self) -> grpc.aio.Channel:
        material = self._material()
        if material is not self._opened:
            old, self._opened, self._channel = self._channel, material, self._open(material)
            task = asyncio.ensure_future(old.close(_CLOSE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._channel


def names_of(context: Any) -> frozenset[str]:
    """The names in the certificate of who is at the other end of a call; none without TLS."""
    return frozenset(name.decode() for name in (context.auth_context() or {}).get(_NAMES, ()))


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.ca)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
