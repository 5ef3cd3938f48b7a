"""What a test says of the world around an agent, and what it sees of the agent."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from carrel.agent_errors import JSON, AgentError, ToolError

PlayedTool: TypeAlias = Callable[..., JSON | Awaitable[JSON]]
"""Takes the arguments of a call by name; raises ToolError when the tool is to fail."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool that was made; what is replayed is not made again."""

    tool: str
    arguments: dict[str, JSON]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that the agent has done. `kind` is "TOOL", "MODEL", "AGENT", "LOCAL" or "WAIT", which is not over then."""

    kind: str
    name: str
    place: str


@dataclass(frozen=True, slots=True)
class Event:
    """What the user is told; `data` has the fields of the payload of this type."""

    event_id: str
    type: str
    agent: str
    data: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What a model answers: a text, or the tools that it wants called."""

    text: str = ""
    calls: Sequence[tuple[str, Mapping[str, JSON]]] = ()
    input_tokens: int = 1
    output_tokens: int = 1

    def as_json(self, model: str) -> dict[str, JSON]:
        """In the form in which a call of a model returns."""
        parts: list[JSON] = [{"part_kind": "text", "content": self.text}] if self.text else []
        for number, (tool, arguments) in enumerate(self.calls, 1):
            call_id = f"call-{number}"
            parts.append(
                {"part_kind": "tool-call", "tool_name": tool, "args": dict(arguments), "tool_call_id": call_id}
            )
        return {
            "response": {"kind": "response", "parts": parts, "model_name": model},
            "model": model,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": None,
        }


PlayedReply: TypeAlias = str | ModelReply | AgentError


@dataclass
class World:
    """The world that a test plays, and what has happened in it. It outlives a crash of the agent."""

    tools: Mapping[str, PlayedTool]
    models: Mapping[str, deque[PlayedReply]]
    calls: list[Call] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, JSON]]] = field(default_factory=list)
    events: dict[str, Event] = field(default_factory=dict)
    state_json: str = ""

    async def call_tool(self, tool: str, arguments: dict[str, JSON]) -> Any:
        """Plays a tool."""
        if tool not in self.tools:
            raise ToolError(
                "TOOL_NOT_FOUND", f"There is no tool {tool}; the test has {', '.join(self.tools) or 'none'}."
            )
        self.calls.append(Call(tool, arguments))
        result = self.tools[tool](**arguments)
        return await result if inspect.isawaitable(result) else result

    def call_model(self, model: str, request: Mapping[str, JSON]) -> dict[str, JSON]:
        """Plays a model: its next reply."""
        self.requests.append((model, request))
        if not self.models[model]:
            raise AgentError("MODEL_UNAVAILABLE", f"The test has no more replies of the model {model}.")
        reply = self.models[model].popleft()
        if isinstance(reply, AgentError):
            raise reply
        return (ModelReply(reply) if isinstance(reply, str) else reply).as_json(model)

    def tell(self, event: Event) -> None:
        """Tells the user; what was told under the same id is not told again."""
        self.events.setdefault(event.event_id, event)
