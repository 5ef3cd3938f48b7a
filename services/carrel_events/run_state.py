"""What a run's events come to: folded one after the other. It knows no log."""

from __future__ import annotations

from collections.abc import Iterable

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb

_MOST_TEXTS = 50
_MOST_TEXT_BYTES = 1024 * 1024

_ENDS = {
    "agent_completed": pb.RUN_PHASE_COMPLETED,
    "agent_failed": pb.RUN_PHASE_FAILED,
    "agent_died": pb.RUN_PHASE_DIED,
    "run_cancelled": pb.RUN_PHASE_CANCELLED,
}


class RunFold:
    """Takes the events of one run in their order; `state` says what they come to."""

    def __init__(self) -> None:
        self._state = pb.RunState()
        self._agents: list[str] = []
        self._tools: dict[str, event_pb2.ToolExecuting] = {}
        self._approvals: dict[str, event_pb2.ApprovalRequested] = {}
        self._texts: dict[str, event_pb2.PartialResult] = {}

    @property
    def empty(self) -> bool:
        """Whether no event has come."""
        return not self._state.events

    def add(self, events: Iterable[event_pb2.Event]) -> None:
        """Takes the next events."""
        for event in events:
            self._add(event)

    def state(self) -> pb.RunState:
        """What is known now."""
        state = pb.RunState()
        state.CopyFrom(self._state)
        state.texts.extend(self._texts.values())
        if not state.HasField("final_event"):
            # A run that has ended has nothing at work, whatever its agents still had to say.
            state.agents_at_work.extend(self._agents)
            state.tools_at_work.extend(self._tools.values())
            state.open_approvals.extend(self._approvals.values())
            if self._approvals:
                state.phase = pb.RUN_PHASE_WAITING
        return state

    def _add(self, event: event_pb2.Event) -> None:
        state = self._state
        if not state.events:
            state.run_id, state.thread_id, state.agent = event.run_id, event.thread_id, event.agent
            state.create_time.CopyFrom(event.create_time)
            state.phase = pb.RUN_PHASE_QUEUED
        if event.attempt > state.attempt and event.type != "run_queued":
            # What an attempt that died left at work is not at work any more.
            self._agents, self._tools = [], {}
        state.events += 1
        state.attempt = max(state.attempt, event.attempt)
        state.update_time.CopyFrom(event.create_time)
        if event.type != "run_queued":
            state.phase = pb.RUN_PHASE_RUNNING
        self._take(event)
        if event.final:
            state.final_event.CopyFrom(event)
            state.phase = _ENDS.get(event.type, pb.RUN_PHASE_COMPLETED)

    def _take(self, event: event_pb2.Event) -> None:
        match event.WhichOneof("payload"):
            case "agent_started":
                self._agents.append(event.agent)
            case "agent_completed" | "agent_failed" | "agent_died" if event.agent in self._agents:
                self._agents.remove(event.agent)
            case "tool_executing":
                self._tools[event.tool_executing.tool_call_id] = event.tool_executing
            case "tool_completed":
                self._tools.pop(event.tool_completed.tool_call_id, None)
            case "approval_requested":
                self._approvals[event.approval_requested.approval_id] = event.approval_requested
            case "approval_resolved":
                self._approvals.pop(event.approval_resolved.approval_id, None)
            case "agent_thinking":
                self._state.thinking.CopyFrom(event.agent_thinking)
            case "progress_update":
                self._state.progress.CopyFrom(event.progress_update)
            case "partial_result":
                self._take_text(event.partial_result)

    def _take_text(self, text: event_pb2.PartialResult) -> None:
        self._texts.pop(text.message_id, None)
        self._texts[text.message_id] = text
        while len(self._texts) > _MOST_TEXTS or sum(len(t.text) for t in self._texts.values()) > _MOST_TEXT_BYTES:
            del self._texts[next(iter(self._texts))]
