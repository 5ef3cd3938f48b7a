"""A pydantic-ai agent as a Carrel agent: its model calls go through the journal, its tools through tool-dispatch, its text to the user.

    @carrel.agent(isolation="process")
    async def researcher(context: RunContext, input: Question) -> str:
        \"\"\"Answers with the user's own data.\"\"\"
        agent = pydantic_ai.Agent(CarrelModel(context), toolsets=[carrel_tools(context, SQL)])
        return (await agent.run(input.text)).output

It needs carrel[models]. Such an agent belongs in a process of its own unless its module is imported when the service starts: the library
takes more than a second to load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import FunctionToolset, ModelRetry, Tool
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from carrel.agent import JSON, RunContext, ToolError

_PARAMETERS = TypeAdapter(ModelRequestParameters)
_RESPONSE = TypeAdapter(ModelResponse)
_SETTINGS = ("temperature", "max_tokens", "top_p", "seed", "stop_sequences", "parallel_tool_calls", "tool_choice")
"""What of pydantic-ai's settings reaches the model: timeouts and headers are the operator's."""


class CarrelModel(Model):
    """A model of the operator's; by default the first. Its keys are not here."""

    def __init__(self, context: RunContext, name: str = "") -> None:
        super().__init__()
        self._context = context
        self._name = name or next(iter(context.model.names), "")

    @property
    def model_name(self) -> str:
        return self._name

    @property
    def system(self) -> str:
        return "carrel"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Asks once for each place in the run, however often the run is resumed; raises AgentError as `context.model.request`."""
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        request = {
            "messages": ModelMessagesTypeAdapter.dump_python(messages, mode="json"),
            "settings": {name: settings[name] for name in _SETTINGS if settings and name in settings},  # type: ignore[literal-required]
            "parameters": _PARAMETERS.dump_python(parameters, mode="json"),
        }
        result = await self._context.model.request(request, model=self._name)
        return _RESPONSE.validate_python(result["response"])


@dataclass(frozen=True, slots=True)
class ToolCard:
    """What a model is told of a tool of Carrel."""

    name: str
    description: str
    schema: dict[str, JSON]


def carrel_tools(context: RunContext, *cards: ToolCard) -> FunctionToolset[Any]:
    """These tools of the user's, for a pydantic-ai agent. A call that fails is told to the model, which may try otherwise."""
    return FunctionToolset([_tool(context, card) for card in cards])


def _tool(context: RunContext, card: ToolCard) -> Tool[Any]:
    async def call(**arguments: JSON) -> JSON:
        try:
            return await context.tools.call(card.name, **arguments)
        except ToolError as error:
            raise ModelRetry(f"{error.reason}: {error.message}") from error

    return Tool.from_schema(call, card.name, card.description, card.schema)
