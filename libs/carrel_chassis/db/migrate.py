"""Migrations: each service brings its own, numbered, for its own schema; they run as the owner, who cannot log in."""

from __future__ import annotations

import asyncio
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

SCHEMAS = {
    "carrel_context": "context",
    "carrel_execution": "execution",
    "carrel_tools": "tools",
    "carrel_events": "events",
}
OWNER = "carrel_owner"


async def migrate(migrator_url: str, service_package: str) -> None:
    """Brings the service's schema to its newest version. `migrator_url` logs in as a role that may become the owner."""
    schema = SCHEMAS[service_package]
    engine = create_async_engine(migrator_url, poolclass=pool.NullPool)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SET ROLE {OWNER}")
            await connection.exec_driver_sql(f"SET search_path = {schema}")
            await connection.run_sync(_upgrade, service_package, schema)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, service_package: str, schema: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.set_main_option("version_locations", str(files(service_package) / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    command.upgrade(config, "head")


def execute_script(operations: Operations | Any, script: str) -> None:
    """Runs several statements at once, function bodies included, in the migration's transaction; called by migrations."""
    connection: Connection = operations.get_bind()
    connection.exec_driver_sql("SELECT 1")  # the driver begins the transaction with the first statement it sees itself
    driver: Any = connection.connection.dbapi_connection
    driver.run_async(lambda raw: raw.execute(script))


def main() -> None:
    """`python -m carrel_chassis.db.migrate URL PACKAGE ...`: for deployments that bring their own PostgreSQL."""
    url, *packages = sys.argv[1:]
    for package in packages or SCHEMAS:
        asyncio.run(migrate(url, package))


if __name__ == "__main__":
    main()
