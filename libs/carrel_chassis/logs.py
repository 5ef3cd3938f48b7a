"""Logs: one JSON object a line on standard error, or readable lines on a terminal. Never payloads, prompts or tokens."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog


def configure_logs(service: str, level: str) -> None:
    """Sets the process's logging up, once, at its start."""
    structlog.contextvars.bind_contextvars(service=service)
    terminal = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if terminal:
        renderer: list[Any] = [structlog.dev.ConsoleRenderer()]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=orjson.dumps)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors + renderer,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module: their warnings belong in the same place.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """A logger; events are named `noun.verb` and carry fields."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
