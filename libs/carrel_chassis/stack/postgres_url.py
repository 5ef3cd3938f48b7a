"""Addresses of one PostgreSQL server: as its administrator, and as each role of Carrel's database."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from carrel_chassis.stack.errors import StackError

DATABASE = "carrel"
_DEFAULT_PORT = 5432


@dataclass(frozen=True)
class PostgresServer:
    """A server and a role on it that may create roles and databases."""

    admin_url: str
    """`postgresql://admin:password@host:port/database`, as asyncpg takes it."""

    @classmethod
    def external(cls, url: str) -> PostgresServer:
        """From a URL that a person wrote; also with SQLAlchemy's `postgresql+asyncpg`."""
        parts = urlsplit(url)
        if parts.scheme.split("+")[0] not in ("postgresql", "postgres") or not parts.hostname or not parts.username:
            raise StackError(
                "The PostgreSQL URL is not of the form postgresql://user:password@host:port/database: mend it."
            )
        return cls(urlunsplit(parts._replace(scheme="postgresql")))

    @classmethod
    def embedded(cls, port: int, password: str) -> PostgresServer:
        """Our own, on the loopback address."""
        return cls(f"postgresql://postgres:{quote(password, safe='')}@127.0.0.1:{port}/postgres")

    @property
    def address(self) -> str:
        """`host:port`."""
        parts = urlsplit(self.admin_url)
        return f"{_bracketed(parts.hostname or '')}:{parts.port or _DEFAULT_PORT}"

    def admin_url_of(self, database: str) -> str:
        """The administrator's URL into another database of the server."""
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))

    def url(self, role: str, password: str) -> str:
        """The URL of a role into Carrel's database, as SQLAlchemy's asyncpg dialect takes it."""
        # asyncpg's DSN says `sslmode`, and its connect(), which the dialect calls, says `ssl`.
        query = urlencode([("ssl" if key == "sslmode" else key, value) for key, value in parse_qsl(self._query)])
        host = f"{quote(role, safe='')}:{quote(password, safe='')}@{self.address}"
        return urlunsplit(("postgresql+asyncpg", host, f"/{DATABASE}", query, ""))

    @property
    def _query(self) -> str:
        return urlsplit(self.admin_url).query


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
