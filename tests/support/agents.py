"""A run context within the process, for tests of agents: SQL runs in a real DuckDB over given files, all else is recorded."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from random import Random

import duckdb
import jsonschema

from carrel.agent import JSON, AgentError, RunContext, RunPort, ThreadState, ToolError
from carrel_agents import AGENTS

ROW_CAP = 10_000


class Corpora:
    """The tool sql_query over CSV files, one view for each, with all columns as text."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        """Opened by the first query: an agent that a test leaves behind, and that asked for nothing, keeps none open to the end."""
        connection = duckdb.connect()
        for name, path in self._files.items():
            view, source = name.replace('"', '""'), str(path).replace("'", "''")
            connection.execute(
                f"CREATE VIEW \"{view}\" AS SELECT * FROM read_csv('{source}', header=true, all_varchar=true, "
                "delim=',', null_padding=true)"
            )
        return connection

    def query(self, sql: str) -> JSON:
        try:
            cursor = self._connection.execute(sql)
        except duckdb.CatalogException as error:
            raise ToolError("CORPUS_NOT_FOUND", str(error)) from error
        rows = cursor.fetchmany(ROW_CAP + 1)
        columns = [column[0] for column in cursor.description or []]
        shown = [[_json(value) for value in row] for row in rows[:ROW_CAP]]
        return {"columns": columns, "rows": shown, "truncated": len(rows) > ROW_CAP}

    def close(self) -> None:
        if "_connection" in vars(self):
            self._connection.close()


def _json(value: object) -> JSON:
    match value:
        case Decimal():
            return float(value)
        case date() | datetime():
            return value.isoformat()
        case _:
            return value


@dataclass
class Record:
    """What the agents of one run did, in order: (agent, kind, what)."""

    steps: list[tuple[str, str, JSON]] = field(default_factory=list)
    answers: list[JSON] = field(default_factory=list)
    """What the user answers, in order, when an agent asks; each must match what is asked for."""

    written: dict[str, str] = field(default_factory=dict)
    """What a model writes for each agent. It refuses the others, and falls silent where it is to write nothing; without any entry there
    is no model."""

    @property
    def agents(self) -> list[str]:
        """The agents in the order in which they began."""
        return [agent for agent, kind, _ in self.steps if kind == "input"]

    def of_kind(self, kind: str) -> list[tuple[str, JSON]]:
        return [(agent, what) for agent, each, what in self.steps if each == kind]


class LocalRun(RunPort):
    """Runs agents of AGENTS here and now; every value passes through JSON, as it does between processes."""

    def __init__(
        self, agent: str, corpora: Corpora, settings: Mapping[str, JSON] | None = None, record: Record | None = None
    ) -> None:
        self.run_id, self.thread_id, self.agent = "run-7", "thread-7", agent
        self.settings = settings or {}
        self.record = record or Record()
        self._corpora = corpora
        self.random = Random(self.run_id)
        self.state = _NoState()
        self.models = ("scripted",) if self.record.written else ()

    async def start(self, input: Mapping[str, JSON]) -> JSON:
        """Runs the agent that holds this context."""
        agent = next((agent for agent in AGENTS if agent.name == self.agent), None)
        if agent is None:
            raise AgentError("AGENT_NOT_FOUND", f"There is no agent {self.agent}.")
        self.record.steps.append((self.agent, "input", dict(input)))
        return _through_json(await agent().perform(RunContext(self), _through_json(dict(input))))

    async def call_tool(self, tool: str, /, **arguments: JSON) -> JSON:
        self.record.steps.append((self.agent, "tool", {"tool": tool, **arguments}))
        match tool:
            case "sql_query":
                return _through_json(self._corpora.query(arguments["sql"]))
            case "echo":
                return {"text": arguments["text"]}
        raise ToolError("TOOL_NOT_FOUND", f"There is no tool {tool}.")

    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        return await LocalRun(agent, self._corpora, self.settings, self.record).start(input)

    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        self.record.steps.append((self.agent, "step", name))
        return _through_json(await function())

    async def wait_for_input(
        self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None
    ) -> JSON:
        self.record.steps.append((self.agent, "wait", {"prompt": prompt, "schema": schema}))
        if not self.record.answers:
            raise AgentError("WAIT_EXPIRED", f"Nobody is here to answer: {prompt}")
        answer = self.record.answers.pop(0)
        jsonschema.validate(answer, schema or {})
        return answer

    async def wait_for_approval(self, prompt: str, timeout: float | None = None) -> bool:
        raise AgentError("WAIT_EXPIRED", f"Nobody is here to answer: {prompt}")

    async def call_model(self, model: str, request: Mapping[str, JSON], quiet: bool = False) -> JSON:
        self.record.steps.append((self.agent, "model", request))
        text = self.record.written.get(self.agent)
        if text is None:
            raise AgentError("MODEL_REFUSED", "The model refuses.")
        if not text:
            raise AgentError("MODEL_UNAVAILABLE", "The model does not answer.")
        response = {"parts": [{"part_kind": "text", "content": text}]}
        return {"response": response, "model": model, "input_tokens": 1, "output_tokens": 1, "cost_usd": None}

    async def now(self) -> float:
        return 0.0

    async def thinking(self, text: str) -> None:
        self.record.steps.append((self.agent, "thinking", text))

    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        self.record.steps.append((self.agent, "progress", message))

    async def partial_result(self, message_id: str, delta: str = "", text: str = "") -> None:
        self.record.steps.append((self.agent, "text", text or delta))

    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        self.record.steps.append((self.agent, "custom", {"name": name, **data}))


class _NoState(ThreadState):
    """A thread in which nothing is kept."""

    async def get(self) -> JSON:
        return None

    async def set(self, value: JSON) -> None:
        raise AgentError("STATE_INVALID", "This thread keeps nothing.")


def _through_json(value: JSON) -> JSON:
    return json.loads(json.dumps(value, allow_nan=False))
