"""What an agent holds of its run: all that it may touch, by namespaces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from carrel.agent_errors import JSON, AgentError
from carrel.model_answer import ModelAnswer, answer_of, text_request
from carrel.run_port import RunPort

if TYPE_CHECKING:
    from carrel.agent import Agent

In = TypeVar("In")
Out = TypeVar("Out")


class OfRun:
    """What belongs to one run: an agent may use it, and must not keep it."""

    __slots__ = ("_port",)

    def __init__(self, port: RunPort) -> None:
        self._port = port

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._port.run_id


class Tools(OfRun):
    """The tools of the user."""

    __slots__ = ()

    async def call(self, tool: str, /, **arguments: JSON) -> JSON:
        """Calls a tool of the user through tool-dispatch and returns its result; raises ToolError.

        When the user must consent to the call first, the run waits for that, for days and without a process if need be.
        """
        return await self._port.call_tool(tool, **arguments)


class Agents(OfRun):
    """The other agents."""

    __slots__ = ()

    @overload
    async def run(self, agent: str, input: Mapping[str, JSON]) -> JSON: ...

    @overload
    async def run(self, agent: type[Agent[In, Out]], input: In) -> Out: ...

    async def run(self, agent: Any, input: Any) -> Any:
        """Runs another agent within this run and returns its result; raises what it raises.

        Named by its class, it takes and returns the values of its types; by its name, JSON.
        """
        if isinstance(agent, str):
            return await self._port.run_agent(agent, input)
        result = await self._port.run_agent(agent.name, agent.types.dump_input(input))
        return agent.types.read_output(agent.name, result)


class Models(OfRun):
    """The language models that the operator has set up. What a model has answered is not asked, and not paid, again."""

    __slots__ = ()

    @property
    def names(self) -> Sequence[str]:
        """Empty when there is none; the first is the one that is meant when none is named."""
        return self._port.models

    async def ask(
        self,
        prompt: str,
        *,
        instructions: str = "",
        model: str = "",
        temperature: float | None = None,
        max_tokens: int | None = None,
        quiet: bool = False,
    ) -> ModelAnswer:
        """Has a model write a text; the user sees it grow, unless it is `quiet`. Raises AgentError as `request` does."""
        request = text_request(prompt, instructions, temperature, max_tokens)
        return answer_of(await self.request(request, model=model, quiet=quiet))

    async def request(self, request: Mapping[str, JSON], *, model: str = "", quiet: bool = False) -> JSON:
        """One request in the JSON form of pydantic-ai: {"messages", "settings", "parameters"}.

        The user is told the text as it grows, and the whole of it; a `quiet` one is the agent's alone, to be checked first.

        Returns {"response", "model", "input_tokens", "output_tokens", "cost_usd"}; the cost is None where no price is set. Raises
        AgentError: MODEL_UNKNOWN, MODEL_REFUSED (the key or the request is wrong), MODEL_UNAVAILABLE (after all tries, those of its
        fallback too).
        """
        if not (names := self.names):
            raise AgentError("MODEL_UNKNOWN", "There is no model; the operator sets them up with CARREL_MODELS_FILE.")
        if (name := model or names[0]) not in names:
            raise AgentError("MODEL_UNKNOWN", f"There is no model {name}; choose one of {', '.join(names)}.")
        return await self._port.call_model(name, request, quiet)


class Emit(OfRun):
    """What the user sees of the run while it works."""

    __slots__ = ()

    async def thinking(self, text: str) -> None:
        """Tells the user what the agent is about to do."""
        await self._port.thinking(text)

    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        """Tells the user how far the agent has come; `total` is 0 when it is not known."""
        await self._port.progress(message, done, total)

    async def delta(self, message_id: str, delta: str) -> None:
        """A piece of a text that is being written: for those who read at this moment, and kept nowhere."""
        await self._port.partial_result(message_id, delta=delta)

    async def text(self, message_id: str, text: str) -> None:
        """The whole of a text, whose pieces had the same id; it is kept."""
        await self._port.partial_result(message_id, text=text)

    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        """Sends an event of the agent's own kind to the user."""
        await self._port.custom(name, data)


class WaitFor(OfRun):
    """People. Meanwhile no process holds the run, and what the agent has in memory is gone: when the answer is there, the agent runs
    again from the top, up to here."""

    __slots__ = ()

    async def input(self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None) -> JSON:
        """Asks the user and returns the answer.

        `schema` is a JSON Schema that the answer must match. Raises AgentError WAIT_EXPIRED when there is no answer within `timeout`
        seconds, or within what the service allows.
        """
        return await self._port.wait_for_input(prompt, schema, timeout)

    async def approval(self, prompt: str, timeout: float | None = None) -> bool:
        """Whether the user consents to what the prompt says; raises as `input` does. Tools that need consent ask for it themselves."""
        return await self._port.wait_for_approval(prompt, timeout)


class Clock(OfRun):
    """The time of the run."""

    __slots__ = ()

    async def now(self) -> float:
        """Seconds since the epoch; the same in each attempt of the run."""
        return await self._port.now()


class RunContext(OfRun):
    """All that an agent may touch. Every call that reaches the world goes through it, so that a crashed run can be continued:
    the agent runs again from the top, and calls that were finished return what they returned.

    That works when the agent makes the same calls each time: it takes the time, and chance, from here and nowhere else. A run whose
    calls differ from those of the attempt before ends FAILED with JOURNAL_MISMATCH.
    """

    __slots__ = (
        "agent",
        "agents",
        "clock",
        "emit",
        "model",
        "random",
        "settings",
        "state",
        "thread_id",
        "tools",
        "wait_for",
    )

    def __init__(self, port: RunPort) -> None:
        super().__init__(port)
        self.agent = port.agent
        """The name of the agent that holds this context."""
        self.thread_id = port.thread_id
        self.settings = port.settings
        """What the operator has set for agents, for example "prices"."""
        self.random = port.random
        """The same numbers in each attempt of the run. Nobody must rely on their being hard to guess."""
        self.state = port.state
        """What the agents of the thread keep from run to run."""
        self.tools = Tools(port)
        self.agents = Agents(port)
        self.model = Models(port)
        self.emit = Emit(port)
        self.wait_for = WaitFor(port)
        self.clock = Clock(port)

    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        """Does work of the agent's own, and keeps its JSON result of at most 1 MiB: when the run goes on elsewhere, it is returned
        without doing the work again. An AgentError of the work is kept and raised again in the same way.

        If the worker dies half-way, the work is done again. With `at_most_once` it is not: then OutcomeUnknown is raised.
        """
        return await self._port.step(name, function, at_most_once=at_most_once)
