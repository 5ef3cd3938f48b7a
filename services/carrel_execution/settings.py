"""The settings of agent-execution."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from carrel.agent_sources import module_names
from carrel_chassis.settings import DatabaseSettings


class ExecutionSettings(DatabaseSettings):
    """Each field is read from `CARREL_<FIELD>`."""

    runner_database_url: SecretStr
    """`postgresql+asyncpg://...` as the role that claims and ends runs across users."""
    runner_pool_size: int = Field(default=6, ge=1)
    statistics_database_url: SecretStr
    """The same as the role that sees the statistics of one tenant at a time."""
    retention_database_url: SecretStr
    """The same as the role that deletes what need not be kept."""
    worker_capacity: int = Field(default=64, ge=0)
    """How many runs this process works on at a time; 0 makes it accept runs and leave them to other processes."""
    running_runs_per_user: int = Field(default=4, ge=1)
    """How many runs of a user are worked on at a time, in all processes; a user's own limits come before it."""
    queued_runs_per_user: int = Field(default=1000, ge=1)
    """How many runs of a user may wait; a user's own limits come before it."""
    lease_seconds: float = Field(default=4.0, ge=1.0)
    """How long a worker may be silent before its runs are given to others; it says that it lives three times in this time."""
    max_attempts: int = Field(default=5, ge=1)
    """A run that has lost this many workers is DEAD."""
    poll_seconds: float = Field(default=1.0, gt=0)
    """How often the queue is looked at when nothing has woken the worker."""
    run_seconds: float = Field(default=600.0, gt=0)
    """How long a run may take from its first start; then it is TIMED_OUT."""
    cancel_seconds: float = Field(default=5.0, gt=0)
    """How long an agent that was cancelled may take to stop; then it is abandoned, and nothing it does reaches the world."""
    wait_seconds: float = Field(default=7 * 86400.0, gt=0)
    """How long a run may wait for its user, at most and where it does not say."""
    events_per_run: int = Field(default=10_000, ge=1)
    """A run that has sent more events is FAILED."""
    deltas_per_run: int = Field(default=100_000, ge=1)
    """The same for pieces of texts, which are in no log and cost their readers and the bus."""
    schedules_per_user: int = Field(default=100, ge=1)
    """How many schedules a user may have."""
    disconnect_seconds: float = Field(default=10.0, gt=0)
    """A run that is to be cancelled when nobody follows it is cancelled after so long without anybody."""
    keep_runs_days: float = Field(default=90.0, ge=0)
    """How long runs are kept after their end, with their journals; 0: for ever."""
    agent_modules: str = ""
    """Modules with an `AGENTS` tuple each, comma-separated, beside those that come with Carrel and those of installed packages."""
    isolated_agents: str = ""
    """Agents that run in processes of their own whatever their class says: names, comma-separated, or "*" for all."""
    stuck_seconds: float = Field(default=1.3, ge=0.2)
    """How long an agent may keep the event loop from turning; then it is DEAD. A third of lease_seconds keeps the others' leases safe."""
    stuck_file: Path | None = None
    """Where word is left of an agent that kept the interpreter itself, for the next start to isolate it; None leaves it in the log."""
    breaker_failures: int = Field(default=5, ge=1)
    """After so many deaths or crashes of an agent in a row, its user cannot start it for a while."""
    breaker_seconds: float = Field(default=30.0, gt=0)
    """How long that while is."""
    prices_file: Path | None = None
    """JSON: the price table that agents find in their settings as "prices"."""

    models_file: Path | None = None
    """JSON or TOML: the language models by name, with their addresses and prices; see `carrel_execution.models.settings`."""

    @property
    def modules(self) -> tuple[str, ...]:
        """The names in `agent_modules`."""
        return module_names(self.agent_modules)

    @property
    def isolated(self) -> tuple[str, ...]:
        """The names in `isolated_agents`."""
        return tuple(name.strip() for name in self.isolated_agents.split(",") if name.strip())
