"""What was wished for a run is possible: the database refuses what the service would have.

Domains and not CHECK constraints: those of a table are made ready anew for each statement that writes a row, a domain's are kept as long
as the connection and looked at only where a value is given, which is when a run is accepted. A wrong `busy_thread` or `on_disconnect` would
make every list with the run fail, and a wrong `priority` pass it before all others of its user. The timeout has none: one that is not
positive ends its own run at once and harms nothing else, and `claim_runs` returns the column as it is.

The table is written anew, once.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0009"
down_revision = "0008"

_DOMAINS = """
CREATE DOMAIN run_priority AS integer CHECK (VALUE BETWEEN -100 AND 100);
CREATE DOMAIN busy_thread AS text CHECK (VALUE IN ('ENQUEUE', 'REJECT', 'INTERRUPT', 'ROLLBACK'));
CREATE DOMAIN on_disconnect AS text CHECK (VALUE IN ('CONTINUE', 'CANCEL'));
ALTER TABLE run
    ALTER COLUMN priority TYPE run_priority,
    ALTER COLUMN busy_thread TYPE busy_thread,
    ALTER COLUMN on_disconnect TYPE on_disconnect;
"""


def upgrade() -> None:
    execute_script(op, _DOMAINS)
