"""Corpora in more formats, encrypted under a key of their user, and uploads that can be gone on with."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0003"
down_revision = "0002"

ROLE, KEEPER = "carrel_tools", "carrel_tools_keeper"

_MEDIA_TYPES = (
    """('text/csv', 'application/vnd.apache.parquet', 'application/x-ndjson', 'text/plain', 'text/markdown')"""
)

SQL = f"""
-- What was stored until now lies open in a folder that is read no more: it is to be uploaded again.
DELETE FROM corpus;
ALTER TABLE corpus DROP CONSTRAINT corpus_media_type_check;
ALTER TABLE corpus ADD CONSTRAINT corpus_media_type_check CHECK (media_type IN {_MEDIA_TYPES});
-- A JSON array: the types of the columns, as SQL knows them.
ALTER TABLE corpus ADD COLUMN column_types text NOT NULL;

-- Without its row nothing that its user has stored can be read by anybody.
CREATE TABLE corpus_key (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    -- The key in base64, encrypted under the master key of this name.
    master text NOT NULL,
    wrapped_key text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
);
{own_rows("corpus_key", ROLE, "SELECT, INSERT, UPDATE, DELETE")}

-- An upload that has not arrived whole; its parts are stored as far as received_bytes says.
CREATE TABLE corpus_upload (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    upload_id text NOT NULL,
    corpus_id text NOT NULL,
    name text NOT NULL,
    media_type text NOT NULL,
    received_bytes bigint NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, upload_id)
);
{own_rows("corpus_upload", ROLE, "SELECT, INSERT, UPDATE, DELETE")}
{across_users("corpus_upload", KEEPER, "SELECT (tenant_id, user_id, upload_id, corpus_id, received_bytes, create_time), DELETE")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
