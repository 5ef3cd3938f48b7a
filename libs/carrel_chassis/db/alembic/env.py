"""Alembic's entry: runs a service's migrations on the connection that `migrate` hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], version_table_schema=context.config.attributes["schema"]
)
with context.begin_transaction():
    context.run_migrations()
