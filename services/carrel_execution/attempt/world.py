"""The attempt of a run, as the contexts of its agents see it: the way to the tools, to the journal and to the user."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn, Protocol

from carrel.agent import JSON, ToolError
from carrel.api.events.v1 import event_pb2 as pb
from carrel.replay import Answered, Ask
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.attempt.run_journal import RunJournal
from carrel_execution.attempt.tool_progress import Tell
from carrel_execution.models.requests import Write


class ConsentRequired(Exception):
    """The user has to consent to a call of a tool first. `seconds` is how long that may take."""

    def __init__(self, arguments_digest: str, seconds: float, prompt: str) -> None:
        super().__init__(prompt)
        self.arguments_digest = arguments_digest
        self.seconds = seconds
        self.prompt = prompt


class ReplayedFailure(ToolError):
    """The call has failed in an attempt before this one, and was not made again."""


class World(Protocol):
    """What belongs to one attempt and outlives each of its agents."""

    run_id: str
    thread_id: str
    factory: InstanceFactory
    journal: RunJournal
    over: bool
    """The attempt has ended, or is being stopped: nothing that its agents do may reach the world any more."""

    @property
    def memory_limit_mb(self) -> int:
        """Of the user, for agents in processes of their own; 0 is none."""

    def agent_settings(self) -> Mapping[str, JSON]:
        """What the operator has set for agents; a copy."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def latest_answer(self, seconds: float | None) -> float:
        """When a wait that may take so long expires, in seconds since the epoch; None is as long as the service allows."""

    def part(self, kind: str, name: str, step_id: str) -> AbstractContextManager[None]:
        """Something that the run does for the length of the block: what a cancel reports. While there is another than an "agent",
        the run does not stop to wait for its user."""

    async def call_tool(
        self, step_id: str, tool: str, arguments_json: str, consent: Answered | None, tell: Tell
    ) -> str:
        """The JSON result of a tool, which may tell how far it has come; raises ToolError, ConsentRequired."""

    @property
    def models(self) -> Sequence[str]:
        """The names of the models that there are."""

    async def call_model(self, model: str, request: Mapping[str, JSON], message_id: str, write: Write) -> JSON:
        """What the model answered, see `RunPort.call_model`; `write` is told the text as it grows. Raises AgentError."""

    async def ask(self, ask: Ask) -> NoReturn:
        """Ends the attempt, as soon as nothing else is going on; a later one has the answer."""

    async def give_up(self, reason: str, message: str) -> NoReturn:
        """Ends the run FAILED, whatever its agent would rather do."""

    async def disagree(self, agent: str, place: str, what: str) -> NoReturn:
        """Ends the run because an agent asks for another step than the attempt before; `what` is "the tool b now and ... before"."""

    async def thread_state(self) -> str:
        """The state of the thread as JSON; "" when there is none."""

    def set_thread_state(self, state_json: str) -> None:
        """What the run leaves to those after it in its thread."""

    async def emit(self, event: pb.Event) -> None:
        """Sends an event to the user."""


async def check_open(world: World) -> None:
    """Keeps an agent that does not stop when it is told to from doing anything more."""
    if world.over:
        await asyncio.sleep(0.05)  # an agent that tries again and again must not take the loop from the others
        raise asyncio.CancelledError("the run is over")
