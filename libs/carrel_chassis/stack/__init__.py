"""The launcher: the whole system on one machine, with a real PostgreSQL and a real NATS server as child processes."""

from __future__ import annotations

from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.layout import SERVICES, Service
from carrel_chassis.stack.peek import read_stack, stop_stack
from carrel_chassis.stack.signals import ended_by_signals, until_ended
from carrel_chassis.stack.stack import Stack, StackSettings

DEFAULT_PORT_BASE = 7400

__all__ = [
    "DEFAULT_PORT_BASE",
    "SERVICES",
    "Service",
    "Stack",
    "StackError",
    "StackSettings",
    "ended_by_signals",
    "read_stack",
    "stop_stack",
    "until_ended",
]
