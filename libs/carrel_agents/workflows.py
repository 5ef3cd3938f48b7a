"""Which agents answer a question, in which order, and what becomes of the rest when one of them fails."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from carrel_agents.values import Sufficiency


class OnFailure(Enum):
    """What the failure of a step means for those after it."""

    GO_ON = "go on"
    """The report says that its result is missing, and why."""
    STOP = "stop"
    """The run fails as the step did."""


class Step(NamedTuple):
    """An agent in a workflow."""

    agent: str
    on_failure: OnFailure = OnFailure.GO_ON
    needs: tuple[str, ...] = ()
    """Agents without whose results it is passed over."""


OPTIMIZATION = Step("optimization")
DATA = Step("data")
ACTIONS = Step("actions", needs=("optimization",))
DATA_HELPER = Step("data_helper")
REPORTING = Step("reporting", OnFailure.STOP)

WORKFLOWS = MappingProxyType[Sufficiency, tuple[Step, ...]](
    {
        "sufficient": (OPTIMIZATION, DATA, ACTIONS, REPORTING),
        "partial": (OPTIMIZATION, ACTIONS, DATA_HELPER, REPORTING),
        "unknown": (DATA, OPTIMIZATION, ACTIONS, REPORTING),
    }
)
"""What follows triage. Insufficient data has no workflow of its own: the data helper asks, and triage looks again."""

TRIAGE = Step("triage", OnFailure.STOP)
GOALS = Step("goals_triage")
