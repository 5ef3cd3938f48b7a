"""`carrel worker`: one process that works on runs, for administrators of all tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrel_cli.command import Session, client_command

if TYPE_CHECKING:
    from carrel.api.runs.v1 import worker_pb2 as pb

_MB = 2**20


@client_command
async def worker(session: Session) -> None:
    """Looks at one process that works on runs: its instances of agents, its memory, what it has left out."""
    from carrel_cli.documents import document

    found = await session.client.admin.inspect_worker()
    session.out.document({"worker": document(found)})
    session.out.table(["WORKER", found.name], _rows(found), "")


def _rows(found: pb.Worker) -> list[tuple[str, str]]:
    from carrel.api.runs.v1 import worker_pb2 as pb
    from carrel_cli.event_lines import moment

    instances, memory = found.instances, found.memory
    level = pb.AgentConfinement.Name(found.confinement).removeprefix("AGENT_CONFINEMENT_").lower()
    return [
        ("since", moment(found.start_time)),
        ("runs", f"{found.active_runs} of at most {found.capacity}"),
        ("instances", f"{instances.active} now, {instances.created} made"),
        ("contexts", f"{instances.active_contexts} now"),
        ("cleaned", f"{instances.cleanup_success_rate:.2%}, {instances.not_cleaned} not"),
        ("made in the loop", _times(instances.in_loop)),
        ("made in a process", _times(instances.in_process)),
        ("memory", f"{memory.resident_bytes / _MB:.0f} MB, {memory.resident_at_start_bytes / _MB:.0f} MB at its start"),
        ("grown by, for a run", f"{memory.growth_per_active_run_bytes / 1024:.0f} KB (a guess)"),
        ("processes of agents", f"confined by {level}: {', '.join(found.isolated_agents) or 'none'}"),
        ("watchdog", f"{found.stuck_limit.ToMilliseconds()} ms, lease {found.lease.ToMilliseconds()} ms"),
        ("breaker", f"{found.breaker_failures} failures, {found.breaker_pause.ToSeconds()} s"),
        *((f"left out {module.name}", module.error) for module in found.skipped_modules),
    ]


def _times(times: pb.CreationTimes) -> str:
    if not times.count:
        return "none"
    p50, p95, p99 = (f"{span.ToMicroseconds()} us" for span in (times.p50, times.p95, times.p99))
    return f"p50 {p50}, p95 {p95}, p99 {p99}"
