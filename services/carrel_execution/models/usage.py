"""What a user's runs have taken of language models, from their journals: what is replayed is there once, and was paid once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from sqlalchemy import text

from carrel.api.runs.v1 import run_pb2
from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

_SUMS = """
    SELECT result ->> 'model' AS model, count(*) AS calls,
           CAST(sum(CAST(result ->> 'input_tokens' AS bigint)) AS bigint) AS input_tokens,
           CAST(sum(CAST(result ->> 'output_tokens' AS bigint)) AS bigint) AS output_tokens,
           coalesce(sum(CAST(result ->> 'cost_usd' AS float8)), 0) AS cost_usd,
           count(*) FILTER (WHERE result ->> 'cost_usd' IS NULL) AS calls_without_price
    FROM call GROUP BY model ORDER BY model
"""
_CALLS = f"SELECT CAST(result_json AS json) AS result FROM journal_step WHERE {OWN} AND kind = 'MODEL' AND state = 'SUCCEEDED'"
USAGE_OF_RUN = text(f"WITH call AS ({_CALLS} AND run_id = :run_id) {_SUMS}")
USAGE_OF_USER = text(f"WITH call AS ({_CALLS} AND create_time >= CAST(:day AS date) + 1) {_SUMS}")


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model was asked, and what that took. `model` is the name that the operator has given it."""

    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    """Of the calls that had a price."""
    calls_without_price: int


async def usage_of_run(connection: Connection, user: UserContext, run_id: str) -> list[ModelUsage]:
    """By model; of a run of the user."""
    values = {"tenant_id": user.tenant_id, "user_id": user.user_id, "run_id": run_id}
    return _usage(await connection.execute(USAGE_OF_RUN, values))


async def usage_of_user(connection: Connection, user: UserContext, after: date) -> list[ModelUsage]:
    """By model; of all runs of the user since the day after this one, by UTC."""
    values = {"tenant_id": user.tenant_id, "user_id": user.user_id, "day": after}
    return _usage(await connection.execute(USAGE_OF_USER, values))


def usage_message(usage: ModelUsage) -> run_pb2.ModelUsage:
    """As the protos have it."""
    return run_pb2.ModelUsage(
        model=usage.model,
        calls=usage.calls,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=usage.cost_usd,
        calls_without_price=usage.calls_without_price,
    )


def _usage(rows: Iterable[Row]) -> list[ModelUsage]:
    return [ModelUsage(*row) for row in rows]
