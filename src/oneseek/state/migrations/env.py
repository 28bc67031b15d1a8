"""Alembic runs this to take the steps, inside the transaction of the connection that it was given."""

from __future__ import annotations

from alembic import context

from oneseek.state.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
