"""Which agents answer a question, in which order, and what becomes of the rest when one of them fails."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from carrel.agent import Agent
from carrel_agents.actions import Actions
from carrel_agents.data import Data
from carrel_agents.data_helper import DataHelper
from carrel_agents.goals_triage import GoalsTriage
from carrel_agents.optimization import Optimization
from carrel_agents.reporting import Reporting
from carrel_agents.values import HandedOn, Sufficiency


class OnFailure(Enum):
    """What the failure of a step means for those after it."""

    GO_ON = "go on"
    """The report says that its result is missing, and why."""
    STOP = "stop"
    """The run fails as the step did."""


class Step(NamedTuple):
    """An agent in a workflow."""

    agent: type[Agent[HandedOn, Any]]
    on_failure: OnFailure = OnFailure.GO_ON
    needs: tuple[str, ...] = ()
    """Agents without whose results it is passed over."""


GOALS = Step(GoalsTriage)
_OPTIMIZATION = Step(Optimization)
_DATA = Step(Data)
_ACTIONS = Step(Actions, needs=(Optimization.name,))
_DATA_HELPER = Step(DataHelper)
_REPORTING = Step(Reporting, OnFailure.STOP)

WORKFLOWS = MappingProxyType[Sufficiency, tuple[Step, ...]](
    {
        "sufficient": (_OPTIMIZATION, _DATA, _ACTIONS, _REPORTING),
        "partial": (_OPTIMIZATION, _ACTIONS, _DATA_HELPER, _REPORTING),
        "unknown": (_DATA, _OPTIMIZATION, _ACTIONS, _REPORTING),
    }
)
"""What follows triage, whose own failure ends the run. Insufficient data has no workflow: the data helper asks, and triage looks again."""
