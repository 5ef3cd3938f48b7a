"""How runs ended and how long they worked, for people who look: counts by user, agent and day. Nothing here decides anything.

A worker counts in memory and writes each second, beside the runs and not in their commits: a run costs nothing more for it, and a
worker that is killed takes what it counted in its last second with it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from opentelemetry import metrics
from sqlalchemy import text

from carrel_chassis.db.engine import Engine, Rows
from carrel_chassis.db.sessions import UserSessions, database_errors
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.errors import CarrelError, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.logs import get_logger
from carrel_execution.domain import State
from carrel_execution.models.usage import ModelUsage, usage_of_user

MAX_DAYS = 90
DEFAULT_DAYS = 30
ALL_TENANTS = "admin.tenants"
"""The scope of those who see more than their own tenant."""

NEVER_BEGAN = -1
_FIRST_BOUND_SECONDS = 0.001
_GROWTH = 1.5
_BOUNDS = [_FIRST_BOUND_SECONDS * _GROWTH**n for n in range(0, 40, 2)]
"""Of the metric: each second bound, up to 82 minutes."""
_WRITE_SECONDS = 1.0

OWN = "tenant_id = :tenant_id AND user_id = :user_id"
OF_TENANT = "tenant_id = :tenant_id"

_SUMS = "agent, state, bucket, CAST(sum(runs) AS bigint) AS runs, sum(seconds) AS seconds, max(longest_seconds) AS longest_seconds"
STATISTICS_OF_USER = text(f"""
    SELECT {_SUMS} FROM run_statistic WHERE {OWN} AND day > :day GROUP BY agent, state, bucket
""")
STATISTICS_OF_TENANT = text(f"""
    SELECT {_SUMS} FROM run_statistic WHERE {OF_TENANT} AND day > :day GROUP BY agent, state, bucket
""")
STATISTICS_OF_ALL = text(f"SELECT {_SUMS} FROM run_statistic WHERE day > :day GROUP BY agent, state, bucket")
ADD = text("""
    INSERT INTO run_statistic AS known (tenant_id, user_id, day, agent, state, bucket, runs, seconds, longest_seconds)
    SELECT * FROM unnest(CAST(:tenant_ids AS text[]), CAST(:user_ids AS text[]), CAST(:days AS date[]), CAST(:agents AS text[]),
                         CAST(:states AS text[]), CAST(:buckets AS integer[]), CAST(:runs AS bigint[]),
                         CAST(:seconds AS float8[]), CAST(:longest AS float8[]))
        AS new (tenant_id, user_id, day, agent, state, bucket, runs, seconds, longest_seconds)
    ORDER BY tenant_id, user_id, day, agent, state, bucket  -- all processes lock rows in this order
    ON CONFLICT (tenant_id, user_id, day, agent, state, bucket) DO UPDATE SET runs = known.runs + excluded.runs,
        seconds = known.seconds + excluded.seconds, longest_seconds = greatest(known.longest_seconds, excluded.longest_seconds)
""")


def bucket_of(seconds: float | None) -> int:
    """The place in the histogram of a run that worked so long: bucket n holds what is at most 1 ms * 1.5^n."""
    if seconds is None:
        return NEVER_BEGAN
    return max(0, math.ceil(math.log(max(seconds, _FIRST_BOUND_SECONDS) / _FIRST_BOUND_SECONDS, _GROWTH)))


@dataclass(frozen=True, slots=True)
class Count:
    """So many runs of one agent that ended in one way after about the same time."""

    agent: str
    state: State
    bucket: int
    runs: int
    seconds: float
    """Of all of them together."""
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """How the runs of an agent ended, and how long they worked; of all agents when `agent` is empty."""

    agent: str
    counts: Sequence[Count]

    def ended(self, state: State) -> int:
        """How many ended so."""
        return sum(count.runs for count in self.counts if count.state is state)

    @property
    def success_rate(self) -> float:
        """Of all that ended, how many succeeded, 0 to 1; 0 when none ended."""
        all_runs = sum(count.runs for count in self.counts)
        return self.ended(State.SUCCEEDED) / all_runs if all_runs else 0.0

    @property
    def mean_seconds(self) -> float:
        """Of those that began."""
        began = self._began()
        return sum(count.seconds for count in began) / sum(count.runs for count in began) if began else 0.0

    @property
    def longest_seconds(self) -> float:
        """The longest that any worked."""
        return max((count.longest_seconds for count in self._began()), default=0.0)

    def seconds_at(self, share: float) -> float:
        """What at least this share of those that began did not exceed: the upper bound of its bucket, and never above the longest."""
        began = sorted(self._began(), key=lambda count: count.bucket)
        wanted = share * sum(count.runs for count in began)
        seen = 0
        for count in began:
            seen += count.runs
            if seen >= wanted:
                return min(_FIRST_BOUND_SECONDS * _GROWTH**count.bucket, self.longest_seconds)
        return 0.0

    def _began(self) -> Sequence[Count]:
        return [count for count in self.counts if count.bucket != NEVER_BEGAN]


def summaries(counts: Iterable[Count]) -> list[Summary]:
    """One for each agent, by name, and one without a name for all."""
    by_agent: dict[str, list[Count]] = {}
    everything = []
    for count in counts:
        by_agent.setdefault(count.agent, []).append(count)
        everything.append(count)
    return [*(Summary(agent, by_agent[agent]) for agent in sorted(by_agent)), Summary("", everything)]


class RunStatistics:
    """Counts the runs that this process ends, and writes the counts each second."""

    def __init__(self, runner: Engine, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._clock = clock
        self._counts: dict[tuple[str, str, date, str, str, int], tuple[int, float, float]] = {}
        meter = metrics.get_meter("carrel")
        self._ended = meter.create_counter("carrel.runs.ended", description="Runs that ended, by agent and state.")
        self._worked = meter.create_histogram(
            "carrel.run.duration",
            unit="s",
            description="Work of a run, by agent and state.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )

    def ended(self, tenant_id: str, user_id: str, agent: str, state: State, seconds: float | None) -> None:
        """A run has ended, after so much work; None when it never began. Costs no I/O."""
        worked = max(0.0, seconds or 0.0)
        labels = {"agent": agent, "state": str(state)}
        self._ended.add(1, labels)
        if seconds is not None:
            self._worked.record(worked, labels)
        day = datetime.fromtimestamp(self._clock(), UTC).date()
        self._add((tenant_id, user_id, day, agent, str(state), bucket_of(seconds)), 1, worked, worked)

    def _add(self, key: tuple[str, str, date, str, str, int], runs: int, seconds: float, longest: float) -> None:
        known = self._counts.get(key, (0, 0.0, 0.0))
        self._counts[key] = (known[0] + runs, known[1] + seconds, max(known[2], longest))

    async def run(self) -> None:
        """For ever, each second."""
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            try:
                await self.write()
            except CarrelError as error:
                get_logger().warning("statistics.wait", reason=error.reason)
            except Exception:
                get_logger().exception("statistics.failed")

    async def write(self) -> None:
        """Writes what was counted since; what could not be written is counted on."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        keys, values = zip(*counts.items(), strict=True)
        names = ("tenant_ids", "user_ids", "days", "agents", "states", "buckets", "runs", "seconds", "longest")
        columns = [list(column) for column in (*zip(*keys, strict=True), *zip(*values, strict=True))]
        try:
            async with database_errors(), self._runner.connect() as connection:
                await connection.execute(ADD, dict(zip(names, columns, strict=True)))
        except BaseException:
            for key, value in counts.items():
                self._add(key, *value)
            raise


class StatisticsReader:
    """Answers how runs ended: of one user, of a tenant, of all. The days are those of UTC, today among them."""

    def __init__(
        self, sessions: UserSessions, tenants: TenantDatabase, runner: Engine, clock: Callable[[], float]
    ) -> None:
        """`tenants` logs in as a role that sees the statistics of one tenant at a time, and nothing else."""
        self._sessions = sessions
        self._tenants = tenants
        self._runner = runner
        self._clock = clock

    async def of_user(self, user: UserContext, call_id: str, days: int) -> list[Summary]:
        """How the user's own runs ended."""
        values = {"tenant_id": user.tenant_id, "user_id": user.user_id, "day": self._before(days)}
        async with self._sessions.open(user, call_id) as connection:
            return _summaries(await connection.execute(STATISTICS_OF_USER, values))

    async def models_of_user(self, user: UserContext, call_id: str, days: int) -> list[ModelUsage]:
        """What the user's own runs have asked of models."""
        async with self._sessions.open(user, call_id) as connection:
            return await usage_of_user(connection, user, self._before(days))

    async def overall(self, user: UserContext, days: int) -> list[Summary]:
        """How the runs of the caller's tenant ended; of all tenants for who may see them."""
        day = self._before(days)
        if ALL_TENANTS in user.scopes:
            async with database_errors(), self._runner.connect() as connection:
                return _summaries(await connection.execute(STATISTICS_OF_ALL, {"day": day}))
        async with self._tenants.of(user.tenant_id) as connection:
            return _summaries(await connection.execute(STATISTICS_OF_TENANT, {"tenant_id": user.tenant_id, "day": day}))

    def _before(self, days: int) -> date:
        """The day before the first that counts; INVALID_ARGUMENT for too many."""
        if days > MAX_DAYS:
            raise invalid("days", f"days is {days}; it is 1 to {MAX_DAYS}.")
        return datetime.fromtimestamp(self._clock(), UTC).date() - timedelta(days=days or DEFAULT_DAYS)


def _summaries(rows: Rows) -> list[Summary]:
    return summaries(Count(agent, State(state), *rest) for agent, state, *rest in rows)
