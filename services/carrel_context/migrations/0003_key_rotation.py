"""Rotation of the signing keys: each is announced before it signs, and its private half is destroyed when it has retired."""

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0003"
down_revision = "0002"

SQL = """
ALTER TABLE signing_key ADD COLUMN sign_time timestamptz NOT NULL DEFAULT now();
UPDATE signing_key SET sign_time = create_time;
GRANT UPDATE (private_key_encrypted) ON signing_key TO carrel_context;
"""


def upgrade() -> None:
    execute_script(op, SQL)
