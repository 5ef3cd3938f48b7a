"""The share of the turns that users and tenants have when more runs wait than are worked on."""

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0007"
down_revision = "0006"

SQL = """
-- 0: nothing is set; a user has 1 then, and the users of a tenant take turns each for themselves.
ALTER TABLE tenant_limit ADD COLUMN weight integer NOT NULL DEFAULT 0 CHECK (weight >= 0);
ALTER TABLE user_limit ADD COLUMN weight integer NOT NULL DEFAULT 0 CHECK (weight >= 0);
"""


def upgrade() -> None:
    execute_script(op, SQL)
