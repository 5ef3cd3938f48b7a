"""Delays, deadlines, priorities and busy threads through the services: what a caller asks for, and what its user is told."""

from __future__ import annotations

import time

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.execution.test_runs import Runs
from tests.support.system import Person, System


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


def at(seconds: float) -> Timestamp:
    """So many seconds from now."""
    stamp = Timestamp()
    stamp.FromMicroseconds(int((time.time() + seconds) * 1e6))
    return stamp
