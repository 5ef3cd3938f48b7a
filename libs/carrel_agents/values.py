"""What passes from agent to agent: frozen values, checked where they arrive. They are JSON on the way, as all inputs and results."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from carrel.agent import JSON, AgentError
from carrel_agents.questions import check_corpus, check_question

Category = Literal["analysis", "goals", "administration"]
Sufficiency = Literal["sufficient", "partial", "insufficient", "unknown"]
# It goes into SQL as it is.
Moment = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}$")]
V = TypeVar("V", bound="Value")


class Value(BaseModel):
    """A frozen value with no field beside its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TimeRange(Value):
    """The part of a trace that a question is about: from `begin`, before `end`; ISO 8601 without a zone, compared as UTC."""

    begin: Moment
    end: Moment


class Entities(Value):
    """What a question names."""

    models: tuple[str, ...] = ()
    """Models of the trace or of the price table."""
    times: tuple[str, ...] = ()
    """Dates and times, as written."""


class Asked(Value):
    """One thing that is missing, as the user is asked for it."""

    field: str
    """"corpus", or the role of a column: "time", "input", "output"."""
    prompt: str
    choices: tuple[str, ...]


class ModelFailure(Value):
    """Why a language model added nothing to a result."""

    reason: str
    """Of the AgentError, or MODEL_ANSWER_UNUSABLE."""
    message: str


class Written(Value):
    """What a language model added to a result. Its numbers are checked; none of it is a fact."""

    texts: dict[str, str] = {}
    """By the name of what each is about, in the model's order; empty where nothing of a text was left."""
    removed: tuple[str, ...] = ()
    """The sentences with a number that was not computed."""
    failure: ModelFailure | None = None


class TriageResult(Value):
    """What a question is about, and what the trace has for an answer."""

    category: Category
    intent: str
    confidence: float
    """The share of the telling words that speak for the intent; 0 to 1. One half, where a model decided because the words did not."""
    rule: str
    """What decided, in a sentence."""
    entities: Entities
    workload: str
    time_range: TimeRange | None = None
    """None: the whole trace."""
    sufficiency: Sufficiency
    """"unknown" where the question does not say what it is about: then everything is looked at."""
    asked: tuple[Asked, ...] = ()
    """What the data helper asks for, when the data is insufficient; nothing else is known then."""
    columns: dict[str, str | None] = {}
    absent_columns: tuple[str, ...] = ()
    facts: dict[str, JSON] = {}
    """The volume of the trace; see `facts.volume`."""
    limits: dict[str, int] = {}
    """The token counts that make a request long or short; see `facts.limits`."""
    model_failure: ModelFailure | None = None
    """Where a model was asked what the question is about, and could not say."""


class DataResult(Value):
    """How the load of the trace lies in time, and its tokens over requests."""

    facts: dict[str, JSON]
    findings: tuple[dict[str, JSON], ...]


class OptimizationResult(Value):
    """What the trace costs, and where it could cost less."""

    facts: dict[str, JSON]
    groups: tuple[dict[str, JSON], ...]
    """A row for each model; see `statements.groups_sql`."""
    cost: dict[str, JSON] | None = None
    """None where no model of the trace has a price."""
    prices: dict[str, JSON]
    findings: tuple[dict[str, JSON], ...]
    recommendations: tuple[dict[str, JSON], ...] = ()
    """What to change, each with its saving: in the order of a model where one has put them in order, else the greatest first."""
    savings_together: dict[str, JSON] | None = None
    written: Written | None = None
    """Why each change is worth trying, by its name; None without a model."""


class ActionsResult(Value):
    """What to do, in which order."""

    next_actions: tuple[dict[str, JSON], ...]
    written: Written | None = None
    """How to do each, by its name; None without a model."""


class HelperResult(Value):
    """What the user has answered, or what should be recorded for a better answer."""

    corpus: str | None = None
    columns: dict[str, str] = {}
    missing: tuple[dict[str, JSON], ...] = ()
    record: tuple[str, ...] = ()
    """The header of a trace that would answer the question."""


class GoalsResult(Value):
    """What the user wants to reach; see `goals.read_goals`."""

    goals: tuple[dict[str, JSON], ...]


class Failure(Value):
    """An agent whose result is missing from the report, and why."""

    agent: str
    reason: str
    message: str


class Request(Value):
    """What a user asks."""

    question: Annotated[str, AfterValidator(check_question)]
    corpus: Annotated[str, AfterValidator(check_corpus)] | None = None
    """The trace that it is about; who leaves it out is asked for it."""


class HandedOn(Request):
    """The request, and the results of the agents that have worked on it so far."""

    columns: dict[str, str] = {}
    """Which column plays which role, where the user had to say so."""
    triage: TriageResult | None = None
    goals_triage: GoalsResult | None = None
    data: DataResult | None = None
    optimization: OptimizationResult | None = None
    actions: ActionsResult | None = None
    data_helper: HelperResult | None = None
    failures: tuple[Failure, ...] = ()

    def having(self, **changes: Any) -> HandedOn:
        """The same with some fields replaced."""
        return self.model_copy(update=changes)

    def without(self, agent: str, reason: str, message: str) -> HandedOn:
        """The same, and that this agent has failed."""
        return self.having(failures=(*self.failures, Failure(agent=agent, reason=reason, message=message)))

    @property
    def silent_model(self) -> ModelFailure | None:
        """Set when a model did not answer in this run: it is not asked again, so that its user waits for it once."""
        written = [result.written for result in (self.optimization, self.actions) if result and result.written]
        failures = [self.triage.model_failure if self.triage else None, *(each.failure for each in written)]
        return next((failure for failure in failures if failure and failure.reason == "MODEL_UNAVAILABLE"), None)

    def need(self, agent: str, kind: type[V]) -> V:
        """The result of an agent; AgentError INVALID_INPUT when it is not there."""
        result = getattr(self, agent)
        if not isinstance(result, kind):
            message = f"This agent works on the result of {agent}: start the agent supervisor, which hands it on."
            raise AgentError("INVALID_INPUT", message)
        return result
