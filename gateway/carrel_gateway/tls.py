"""TLS at the edge: one certificate for both faces, read again when its files change. It knows no request."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import grpc

from carrel_chassis.logs import get_logger

_LOOK_SECONDS = 1.0


class EdgeTls:
    """The certificate in use. Connections that stand keep theirs; the next ones get the newest that was sound.

    Raises OSError with a sentence when the files cannot be used at the start.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        try:
            self._pair = self._read()
            self.http_context = _context(cert_file, key_file)
        except (OSError, ValueError) as error:
            raise OSError(f"TLS cannot be set up with {cert_file} and {key_file}: {error}") from None
        self.http_context.set_alpn_protocols(["http/1.1"])
        self._told = self._pair

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """What the gRPC server is bound with; it asks at each handshake whether there is a new certificate."""
        first = _configuration(self._pair)
        return grpc.dynamic_ssl_server_credentials(first, self._newer)  # type: ignore[arg-type]  # None: no change

    async def keep_fresh(self) -> None:
        """For ever: looks at the files once a second."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Takes the files as they are now, when they have changed and fit each other; else all stays as it is."""
        try:
            pair = await asyncio.to_thread(self._read)
            if pair == self._pair:
                return
            await asyncio.to_thread(_context, self._cert_file, self._key_file)
            self.http_context.load_cert_chain(self._cert_file, self._key_file)
        except (OSError, ValueError) as error:  # in the middle of a change, or wrong: the next look will tell
            get_logger().warning("tls.unusable", error=str(error))
            return
        self._pair = pair
        get_logger().info("tls.renewed", cert_file=str(self._cert_file))

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Called from gRPC's own threads, one handshake at a time."""
        pair = self._pair
        if pair is self._told:
            return None
        self._told = pair
        return _configuration(pair)

    def _read(self) -> tuple[bytes, bytes]:
        return self._key_file.read_bytes(), self._cert_file.read_bytes()


def _context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """A context of its own: raises when the key is not that of the certificate, before anything in use is touched."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert_file, key_file)
    return context


def _configuration(pair: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([pair])
