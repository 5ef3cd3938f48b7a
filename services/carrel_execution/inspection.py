"""What operators see of this process: its instances of agents, its memory, what it has left out and how it is set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from carrel.api.runs.v1 import worker_pb2 as pb
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.agents.instance_counts import Durations, InstanceCounts
from carrel_execution.queue.worker import Worker
from carrel_execution.settings import ExecutionSettings
from carrel_execution.wire import duration, timestamp


class Inspection:
    """To be made when the process begins to serve: its memory at that moment is what later growth is told against."""

    def __init__(
        self, settings: ExecutionSettings, factory: InstanceFactory, worker: Worker, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._factory = factory
        self._worker = worker
        self._start_time = datetime.fromtimestamp(clock(), UTC)
        self._resident_at_start = resident_bytes()
        meter = metrics.get_meter("carrel")
        meter.create_observable_gauge("carrel.worker.memory", [self._observed_memory], unit="By")
        meter.create_observable_gauge("carrel.worker.memory.per_run", [self._observed_growth], unit="By")

    def worker(self) -> pb.Worker:
        """As it is now."""
        settings, registry = self._settings, self._factory.registry
        return pb.Worker(
            name=self._worker.name,
            start_time=timestamp(self._start_time),
            active_runs=len(self._worker.attempts),
            capacity=settings.worker_capacity,
            instances=_instances(self._factory.counts),
            memory=self._memory(),
            skipped_modules=[
                pb.SkippedModule(name=name, error=_last_line(trace)) for name, trace in registry.skipped.items()
            ],
            confinement=pb.AGENT_CONFINEMENT_KERNEL
            if self._factory.confined_by_kernel
            else pb.AGENT_CONFINEMENT_LIMITS,
            isolated_agents=filter(self._factory.is_isolated, registry.names),
            stuck_limit=duration(settings.stuck_seconds),
            lease=duration(settings.lease_seconds),
            breaker_failures=settings.breaker_failures,
            breaker_pause=duration(settings.breaker_seconds),
        )

    def _memory(self) -> pb.WorkerMemory:
        resident = resident_bytes()
        return pb.WorkerMemory(
            resident_bytes=resident,
            resident_at_start_bytes=self._resident_at_start,
            growth_per_active_run_bytes=self._growth_per_run(resident),
        )

    def _growth_per_run(self, resident: int) -> int:
        active = len(self._worker.attempts)
        return max(0, resident - self._resident_at_start) // active if active else 0

    def _observed_memory(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(resident_bytes())]

    def _observed_growth(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._growth_per_run(resident_bytes()))]


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _instances(counts: InstanceCounts) -> pb.AgentInstances:
    return pb.AgentInstances(
        created=counts.created,
        active=counts.active,
        cleaned=counts.cleaned,
        not_cleaned=counts.not_cleaned,
        cleanup_success_rate=counts.cleanup_success_rate,
        active_contexts=counts.active_contexts,
        in_loop=_times(counts.creation["loop"]),
        in_process=_times(counts.creation["process"]),
    )


def _times(creation: Durations) -> pb.CreationTimes:
    p50, p95, p99 = (duration(creation.seconds_at(share)) for share in (0.5, 0.95, 0.99))
    return pb.CreationTimes(count=creation.count, p50=p50, p95=p95, p99=p99)


def _last_line(trace: str) -> str:
    return trace.rstrip().rpartition("\n")[2]
