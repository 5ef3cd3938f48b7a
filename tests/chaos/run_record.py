"""Reads back what has happened to the runs of some users, for the checker: from the commits, the streams, the file of effects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

import asyncpg

from carrel.api.events.v1 import event_pb2
from carrel.api.runs.v1.run_pb2 import RunState
from carrel.errors import CarrelClientError
from tests.chaos.commits import Change, Commits
from tests.chaos.history import Owner
from tests.chaos.run_agents import CONSENTED, DENIED
from tests.chaos.run_history import Left, RunHistory, Standing, Told, Written
from tests.support.follow import Follower
from tests.support.system import System

T = TypeVar("T")

_TABLES = ("execution.run", "execution.journal_step", "execution.thread_state", "tools.tool_call", "events.event")
_LEFT = """
    SELECT format('%s of %s is %s (ready %s, epoch %s, thread %s)', run_id, agent, state, ready, epoch, thread_id) FROM execution.run
    WHERE finish_time IS NULL
    UNION ALL
    SELECT format('%s has %s events in the outbox', run_id, count(*)) FROM execution.outbox GROUP BY run_id
"""
PASSING = {"", "UNAVAILABLE", "DEADLINE_EXCEEDED", "LIMIT_EXCEEDED", "INTERNAL"}
"""Reasons after which the same call may succeed. INTERNAL: something broke half-way through an answer."""
_FOLLOW_SECONDS = 30.0


class Record:
    """One system, and PostgreSQL's log of what was committed in it."""

    def __init__(self, system: System, administrator_url: str) -> None:
        self.system = system
        self.commits = Commits(administrator_url)
        self._administrator_url = administrator_url
        self._effects = system.data_dir.parent / "effects"

    async def until_quiet(self, seconds: float) -> None:
        """Until nothing of any user is under way: no run that is not over, nothing still to be told. AssertionError says what is left."""
        left = ["nobody knows what"]
        deadline = time.monotonic() + seconds
        while left:
            assert time.monotonic() < deadline, f"after {seconds:g} s there is still {'; '.join(left[:10])}"
            await asyncio.sleep(0.02)
            try:
                async with self.administrator() as connection:
                    left = [row[0] for row in await connection.fetch(_LEFT)]
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # it is coming back

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that sees everything."""
        connection = await asyncpg.connect(self._administrator_url, timeout=5)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def read_back(self, history: RunHistory, followers: Mapping[Owner, Follower]) -> None:
        """Adds to the history all that the checker needs of these users, when all is over."""
        for change in await self.commits.read():
            _add(history, change, followers)
        for owner, follower in followers.items():
            log = history.logs[owner]
            log.sort(key=lambda told: told.offset)  # those of one statement are not inserted in their order
            await follower.until(lambda log=log, follower=follower: len(follower.events) >= len(log), _FOLLOW_SECONDS)  # type: ignore[misc]
            history.followed[owner] = [event.event_id for event in follower.events]
        for accepted in history.accepted:
            client = followers[accepted.owner].client
            run = await answered(lambda client=client, run_id=accepted.run_id: client.get_run(run_id))  # type: ignore[misc]
            history.ended[run.run_id] = RunState.Name(run.state).removeprefix("RUN_STATE_")
            if run.result_json:
                result = json.loads(run.result_json)
                history.claimed_effects[run.run_id] = result["done"]
                if "kept" in result:
                    history.kept[run.run_id] = result["kept"]
        ours = {accepted.run_id for accepted in history.accepted}
        if self._effects.exists():
            lines = self._effects.read_text().splitlines()
            history.effects = [line for line in lines if line.split("/")[0] in ours]
            history.guarded = {line for line in history.effects if line.split("/")[-1] in (CONSENTED, DENIED)}


async def recorded(system: System, administrator_url: str) -> Record:
    """A record of everything that is committed from now on; see `commits` for how PostgreSQL must have been started.

    `administrator_url` leads into Carrel's database.
    """
    record = Record(system, administrator_url)
    await record.commits.begin(_TABLES)
    return record


async def answered(call: Callable[[], Awaitable[T]]) -> T:
    """Calls until there is an answer; only for calls that may be repeated."""
    while True:
        try:
            return await call()
        except CarrelClientError as error:
            if error.reason not in PASSING:
                raise
        await asyncio.sleep(0.1)


def _add(history: RunHistory, change: Change, owners: Mapping[Owner, Any]) -> None:
    """Adds a change to the history if it is of one of the owners."""
    row: dict[str, Any] = dict(change.row)
    owner = (row["tenant_id"], row["user_id"])
    if owner not in owners:
        return
    match change.table:
        case "execution.run":
            standing = Standing(
                owner,
                row["run_id"],
                row["thread_id"],
                row["state"],
                int(row["epoch"]),
                early=_began_early(row),
                busy_thread=row["busy_thread"],
                request_id=row["request_id"],
                reason=row["error_reason"] or "",
            )
            history.changes.append(standing)
        case "execution.thread_state":
            history.changes.append(Left(owner, row["thread_id"], row["run_id"], tuple(json.loads(row["state_json"]))))
        case "execution.journal_step":
            history.changes.append(Written("journal", row["run_id"], row["step_id"], int(row["epoch"])))
        case "tools.tool_call":
            history.changes.append(Written("ledger", row["run_id"], row["step_id"], int(row["attempt"])))
        case "events.event":
            event = event_pb2.Event.FromString(bytes.fromhex(row["body"].removeprefix("\\x")))
            offset = int(row["log_offset"])
            told = Told(owner, offset, event.event_id, event.run_id, event.type, event.attempt, event.final)
            history.logs[owner].append(told)


def _began_early(row: Mapping[str, str | None]) -> bool:
    began, earliest = row["start_time"], row["earliest_start_time"]
    return bool(began and earliest) and datetime.fromisoformat(str(began)) < datetime.fromisoformat(str(earliest))
