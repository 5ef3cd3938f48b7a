"""What PostgreSQL has committed, change by change, in the order of the commits: its own log, read by logical decoding.

Nothing in the tables or the services knows of it. It outlives a kill of the server; what the server then tells again is passed over.
The messages are those of `pgoutput`, version 1 (PostgreSQL's documentation, "Logical Replication Message Formats").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

POSTGRES_SETTINGS = {"wal_level": "logical", "max_wal_senders": "1", "max_replication_slots": "1"}
"""What the server must be started with."""
_NAME = "history"


@dataclass(frozen=True, slots=True)
class Change:
    """A row as one commit left it."""

    table: str
    """`schema.table`."""
    row: Mapping[str, str | None]
    """By column, in PostgreSQL's text form; a large value that was not changed is missing."""


class Commits:
    """The changes of some tables since `begin`."""

    def __init__(self, url: str) -> None:
        self._url = url
        """The administrator's, into Carrel's database."""
        self._decoder = Decoder()

    async def begin(self, tables: Sequence[str]) -> None:
        """From now on every change of a row of these tables is kept until it is read."""
        connection = await asyncpg.connect(self._url)
        try:
            names = ", ".join(tables)
            await connection.execute(
                f"CREATE PUBLICATION {_NAME} FOR TABLE {names} "
                "WITH (publish = 'insert, update', publish_via_partition_root = true)"
            )
            await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", _NAME)
        finally:
            await connection.close()

    async def read(self) -> list[Change]:
        """All changes since the last time."""
        connection = await asyncpg.connect(self._url)
        try:
            # A commit that reaches the disk, and with it all before it: only those are told of.
            await connection.execute("SET synchronous_commit = on")
            await connection.execute("SELECT pg_logical_emit_message(true, $1, '')", _NAME)
            rows = await connection.fetch(
                "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, "
                "'proto_version', '1', 'publication_names', $2)",
                _NAME,
                _NAME,
            )
        finally:
            await connection.close()
        return [change for row in rows for change in self._decoder.decode(row["data"])]


class Decoder:
    """Messages of `pgoutput` to changes. It keeps what the server says of its tables, and how far it has come."""

    def __init__(self) -> None:
        self._tables: dict[int, tuple[str, list[str]]] = {}
        self._last_commit = 0
        self._told_again = False

    def decode(self, message: bytes) -> Iterator[Change]:
        """The changes in a message: one, or none."""
        kind, body = message[:1], _Reader(message[1:])
        match kind:
            case b"B":
                commit = body.int64()
                self._told_again = commit <= self._last_commit
                self._last_commit = max(self._last_commit, commit)
            case b"R":
                self._learn(body)
            case b"I" | b"U" if not self._told_again:
                yield self._change(body)

    def _learn(self, body: _Reader) -> None:
        identity, schema, table = body.int32(), body.text(), body.text()
        body.skip(1)  # the replica identity
        columns = []
        for _ in range(body.int16()):
            body.skip(1)  # whether it is part of the key
            columns.append(body.text())
            body.skip(8)  # its type and modifier
        self._tables[identity] = (f"{schema}.{table}", columns)

    def _change(self, body: _Reader) -> Change:
        table, columns = self._tables[body.int32()]
        if body.byte() != b"N":  # before the new row comes the old key
            body.row(columns)
            body.skip(1)
        return Change(table, body.row(columns))


class _Reader:
    """Reads a message from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def row(self, columns: Sequence[str]) -> dict[str, str | None]:
        values: dict[str, str | None] = {}
        assert self.int16() == len(columns)
        for column in columns:
            match self.byte():
                case b"n":
                    values[column] = None
                case b"t":
                    values[column] = self._take(self.int32()).decode()
                case b"u":  # large and unchanged: it is not told
                    continue
        return values

    def byte(self) -> bytes:
        return self._take(1)

    def int16(self) -> int:
        return int(struct.unpack("!H", self._take(2))[0])

    def int32(self) -> int:
        return int(struct.unpack("!I", self._take(4))[0])

    def int64(self) -> int:
        return int(struct.unpack("!Q", self._take(8))[0])

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        value = self._data[self._at : end].decode()
        self._at = end + 1
        return value

    def skip(self, count: int) -> None:
        self._at += count

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]
