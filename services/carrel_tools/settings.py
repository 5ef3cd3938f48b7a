"""The settings of tool-dispatch, read once at its start."""

from __future__ import annotations

from pathlib import Path

from carrel_chassis.settings import DatabaseSettings


class ToolsSettings(DatabaseSettings):
    """Where the corpora lie and what a tool may use. Replicas share one folder of corpora."""

    corpus_dir: Path
    """The folder of all users' files; the service alone may enter it."""
    corpus_max_bytes: int = 256 * 1024 * 1024
    """The greatest size of one corpus."""
    corpus_user_bytes: int = 1024 * 1024 * 1024
    """The greatest size of all corpora of a user together."""
    corpus_user_count: int = 500
    """How many corpora a user may keep."""
    user_uploads: int = 2
    """How many uploads of a user may be under way in this process."""
    user_tool_calls: int = 8
    """How many tool calls of a user may be under way in this process."""
    tool_deadline_seconds: float = 60.0
    """How long a tool may take, where its caller does not leave less."""
    tool_modules: str = ""
    """Python modules, comma-separated, each with `TOOLS: tuple[type[Tool], ...]`: tools beside those that come with it."""
    sql_memory_mb: int = 256
    """The memory of one query, in MiB; its process may map three times as much in all."""
    sql_processes: int = 4
    """How many queries run at a time in this process, of all users."""
    user_sql_processes: int = 2
    """How many of these may be of one user."""
