"""The tables of corpora and every statement on them. It knows no rule and no file."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_tools.domain import Corpus, Upload
from carrel_tools.keyring import WrappedKey

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

_CORPUS = "corpus_id, name, media_type, size_bytes, sha256, column_names, column_types, create_time"
_UPLOAD = "upload_id, corpus_id, name, media_type, received_bytes"

GET_CORPUS = text(f"SELECT {_CORPUS} FROM corpus WHERE {OWN} AND name = :name")
LIST_CORPORA = text(f"SELECT {_CORPUS} FROM corpus WHERE {OWN} AND name > :name ORDER BY name LIMIT :size")
FIND_CORPUS = text(f"SELECT {_CORPUS} FROM corpus WHERE {OWN} AND lower(name) = lower(:name)")
# What has arrived of other uploads takes room as well.
OTHER_CORPORA = text(f"""
    SELECT count(*) AS corpora, CAST(coalesce(sum(size_bytes), 0) AS bigint)
        + (SELECT CAST(coalesce(sum(received_bytes), 0) AS bigint) FROM corpus_upload WHERE {OWN} AND upload_id <> :upload_id) AS bytes
    FROM corpus WHERE {OWN} AND name <> :name
""")
# Two uploads of one user are counted one after the other; it is released with the transaction.
LOCK_CORPORA = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant_id || '/' || :user_id, 7))")
STORE_CORPUS = text(f"""
    INSERT INTO corpus (tenant_id, user_id, name, corpus_id, media_type, size_bytes, sha256, column_names, column_types)
    VALUES (:tenant_id, :user_id, :name, :corpus_id, :media_type, :size_bytes, :sha256, :column_names, :column_types)
    ON CONFLICT (tenant_id, user_id, name) DO UPDATE SET
        corpus_id = excluded.corpus_id, media_type = excluded.media_type, size_bytes = excluded.size_bytes,
        sha256 = excluded.sha256, column_names = excluded.column_names, column_types = excluded.column_types, create_time = now()
    RETURNING {_CORPUS}
""")
RENAME_CORPUS = text(f"UPDATE corpus SET name = :new_name WHERE {OWN} AND name = :name RETURNING {_CORPUS}")
DELETE_CORPUS = text(f"DELETE FROM corpus WHERE {OWN} AND name = :name RETURNING {_CORPUS}")
DELETE_CORPORA = text(f"DELETE FROM corpus WHERE {OWN} RETURNING corpus_id")

GET_KEY = text(f"SELECT master, wrapped_key FROM corpus_key WHERE {OWN}")
ADD_KEY = text("""
    INSERT INTO corpus_key (tenant_id, user_id, master, wrapped_key) VALUES (:tenant_id, :user_id, :master, :wrapped_key)
    ON CONFLICT (tenant_id, user_id) DO NOTHING
""")
DELETE_KEY = text(f"DELETE FROM corpus_key WHERE {OWN} RETURNING wrapped_key")

GET_UPLOAD = text(f"SELECT {_UPLOAD} FROM corpus_upload WHERE {OWN} AND upload_id = :upload_id")
ADD_UPLOAD = text("""
    INSERT INTO corpus_upload (tenant_id, user_id, upload_id, corpus_id, name, media_type)
    VALUES (:tenant_id, :user_id, :upload_id, :corpus_id, :name, :media_type)
""")
# Two streams of one upload: the one that was slower finds that its place was taken.
ADVANCE_UPLOAD = text(f"""
    UPDATE corpus_upload SET received_bytes = :new_bytes
    WHERE {OWN} AND upload_id = :upload_id AND received_bytes = :received_bytes RETURNING upload_id
""")
DELETE_UPLOAD = text(f"DELETE FROM corpus_upload WHERE {OWN} AND upload_id = :upload_id RETURNING upload_id")
DELETE_UPLOADS = text(f"DELETE FROM corpus_upload WHERE {OWN} RETURNING upload_id")
STALE_UPLOADS = text(f"""
    DELETE FROM corpus_upload WHERE {OWN} AND upload_id <> :upload_id
        AND (create_time < now() - make_interval(hours => 24) OR upload_id NOT IN (
            SELECT upload_id FROM corpus_upload WHERE {OWN} ORDER BY create_time DESC LIMIT :most))
    RETURNING {_UPLOAD}
""")


def _own(user: UserContext) -> dict[str, Any]:
    return {"tenant_id": user.tenant_id, "user_id": user.user_id}


async def get_corpus(session: Connection, user: UserContext, name: str) -> Corpus | None:
    """The corpus of this name."""
    row = (await session.execute(GET_CORPUS, {**_own(user), "name": name})).one_or_none()
    return _corpus(row) if row else None


async def find_corpus(session: Connection, user: UserContext, name: str) -> Corpus | None:
    """The corpus whose name is this one but for case: SQL would not tell two such apart."""
    row = (await session.execute(FIND_CORPUS, {**_own(user), "name": name})).one_or_none()
    return _corpus(row) if row else None


async def list_corpora(session: Connection, user: UserContext, after: str, size: int) -> list[Corpus]:
    """The corpora after this name, by name."""
    rows = await session.execute(LIST_CORPORA, {**_own(user), "name": after, "size": size})
    return [_corpus(row) for row in rows]


async def other_corpora(session: Connection, user: UserContext, name: str, upload_id: str) -> tuple[int, int]:
    """How many corpora there are beside the one of this name, and their bytes with those of other uploads."""
    row = (await session.execute(OTHER_CORPORA, {**_own(user), "name": name, "upload_id": upload_id})).one()
    return row.corpora, row.bytes


async def lock_corpora(session: Connection, user: UserContext) -> None:
    """Waits until no other transaction changes the corpora of this user."""
    await session.execute(LOCK_CORPORA, _own(user))


async def store_corpus(session: Connection, user: UserContext, corpus: Corpus) -> Corpus:
    """Writes the corpus, in the place of the one of its name if there is one; returns it with its time."""
    values = {
        **_own(user),
        "name": corpus.name,
        "corpus_id": corpus.corpus_id,
        "media_type": corpus.media_type,
        "size_bytes": corpus.size_bytes,
        "sha256": corpus.sha256,
        "column_names": json.dumps(corpus.columns),
        "column_types": json.dumps(corpus.types),
    }
    return _corpus((await session.execute(STORE_CORPUS, values)).one())


async def rename_corpus(session: Connection, user: UserContext, name: str, new_name: str) -> Corpus | None:
    """The corpus under its new name; None when there was none."""
    row = (await session.execute(RENAME_CORPUS, {**_own(user), "name": name, "new_name": new_name})).one_or_none()
    return _corpus(row) if row else None


async def delete_corpus(session: Connection, user: UserContext, name: str) -> Corpus | None:
    """Deletes the row; returns what it was, None when there was none."""
    row = (await session.execute(DELETE_CORPUS, {**_own(user), "name": name})).one_or_none()
    return _corpus(row) if row else None


async def erase(session: Connection, user: UserContext) -> int:
    """Deletes the key and all rows of corpora and uploads; returns how many corpora there were."""
    await session.execute(DELETE_KEY, _own(user))
    await session.execute(DELETE_UPLOADS, _own(user))
    return len(list(await session.execute(DELETE_CORPORA, _own(user))))


async def get_key(session: Connection, user: UserContext) -> WrappedKey | None:
    """The key of the user as it is stored."""
    row = (await session.execute(GET_KEY, _own(user))).one_or_none()
    return WrappedKey(row.master, row.wrapped_key) if row else None


async def add_key(session: Connection, user: UserContext, key: WrappedKey) -> None:
    """Stores a key, unless there is one."""
    await session.execute(ADD_KEY, {**_own(user), "master": key.master, "wrapped_key": key.text})


async def get_upload(session: Connection, user: UserContext, upload_id: str) -> Upload | None:
    """How far an upload has come."""
    row = (await session.execute(GET_UPLOAD, {**_own(user), "upload_id": upload_id})).one_or_none()
    return Upload(**dict(row)) if row else None


async def add_upload(session: Connection, user: UserContext, upload: Upload) -> None:
    """Notes an upload that begins."""
    values = {"upload_id": upload.upload_id, "corpus_id": upload.corpus_id, "name": upload.name}
    await session.execute(ADD_UPLOAD, {**_own(user), **values, "media_type": upload.media_type})


async def advance_upload(session: Connection, user: UserContext, upload_id: str, received: int, new: int) -> bool:
    """Notes that more is stored; False when another stream was there first."""
    values = {**_own(user), "upload_id": upload_id, "received_bytes": received, "new_bytes": new}
    return (await session.execute(ADVANCE_UPLOAD, values)).one_or_none() is not None


async def delete_upload(session: Connection, user: UserContext, upload_id: str) -> None:
    """Forgets an upload."""
    await session.execute(DELETE_UPLOAD, {**_own(user), "upload_id": upload_id})


async def stale_uploads(session: Connection, user: UserContext, upload_id: str, most: int) -> list[Upload]:
    """Forgets and returns the uploads that are a day old, and the oldest beyond `most`; never this one."""
    rows = await session.execute(STALE_UPLOADS, {**_own(user), "upload_id": upload_id, "most": most})
    return [Upload(**dict(row)) for row in rows]


def _corpus(row: Row) -> Corpus:
    return Corpus(
        corpus_id=row.corpus_id,
        name=row.name,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        columns=tuple(json.loads(row.column_names)),
        types=tuple(json.loads(row.column_types)),
        create_time=row.create_time,
    )
