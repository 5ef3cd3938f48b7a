"""Values of the protos that more than one servicer writes and reads."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.runs.v1 import run_pb2
from carrel_chassis.errors import invalid
from carrel_execution.domain import BusyThread, State
from carrel_execution.runs.statistics import Summary

_BUSY_TO_PROTO = {each: run_pb2.BusyThread.Value(f"BUSY_THREAD_{each}") for each in BusyThread}
_BUSY_FROM_PROTO = {value: each for each, value in _BUSY_TO_PROTO.items()} | {
    run_pb2.BUSY_THREAD_UNSPECIFIED: BusyThread.ENQUEUE
}


def busy_thread_to_message(busy_thread: BusyThread) -> run_pb2.BusyThread.ValueType:
    """As the protos have it."""
    return _BUSY_TO_PROTO[busy_thread]


def busy_thread_from_message(value: run_pb2.BusyThread.ValueType) -> BusyThread:
    """As it is used here; INVALID_ARGUMENT for a number that is none of the names."""
    busy_thread = _BUSY_FROM_PROTO.get(value)
    if busy_thread is None:
        raise invalid("busy_thread", f"{value} is no way to deal with a busy thread; name one that BusyThread lists.")
    return busy_thread


def statistics_message(summary: Summary) -> run_pb2.RunStatistics:
    """What people who look are told of the runs of an agent."""
    return run_pb2.RunStatistics(
        agent=summary.agent,
        succeeded=summary.ended(State.SUCCEEDED),
        failed=summary.ended(State.FAILED),
        cancelled=summary.ended(State.CANCELLED),
        timed_out=summary.ended(State.TIMED_OUT),
        dead=summary.ended(State.DEAD),
        success_rate=summary.success_rate,
        mean_duration=duration(summary.mean_seconds),
        longest_duration=duration(summary.longest_seconds),
        p50_duration=duration(summary.seconds_at(0.5)),
        p99_duration=duration(summary.seconds_at(0.99)),
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Absent for None."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def duration(seconds: float) -> Duration:
    """To the microsecond."""
    length = Duration()
    length.FromMicroseconds(round(seconds * 1e6))
    return length
