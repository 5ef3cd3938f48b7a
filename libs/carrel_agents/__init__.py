"""The agents that come with Carrel: they answer questions about a user's own usage traces, by SQL and arithmetic."""

from __future__ import annotations

from typing import Any

from carrel.agent import Agent
from carrel_agents.actions import Actions
from carrel_agents.corpus_admin import CorpusAdmin
from carrel_agents.data import Data
from carrel_agents.data_helper import DataHelper
from carrel_agents.echo import Echo
from carrel_agents.goals_triage import GoalsTriage
from carrel_agents.optimization import Optimization
from carrel_agents.reporting import Reporting
from carrel_agents.supervisor import Supervisor
from carrel_agents.triage import Triage

AGENTS: tuple[type[Agent[Any, Any]], ...] = (
    Supervisor,
    Triage,
    GoalsTriage,
    Data,
    Optimization,
    Actions,
    DataHelper,
    Reporting,
    CorpusAdmin,
    Echo,
)
"""Every agent class of this package; names are unique."""

__all__ = [
    "AGENTS",
    "Actions",
    "CorpusAdmin",
    "Data",
    "DataHelper",
    "Echo",
    "GoalsTriage",
    "Optimization",
    "Reporting",
    "Supervisor",
    "Triage",
]
