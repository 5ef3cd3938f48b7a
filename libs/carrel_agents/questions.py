"""What an agent is asked: the checks of its input, and the keyword rules that say what a question is about."""

from __future__ import annotations

import re
from collections.abc import Mapping

from carrel.agent import JSON, AgentError

QUESTION_LIMIT = 10_000
"""The longest question, in characters."""

RULES: dict[str, frozenset[str]] = {
    "cost": frozenset(
        "bill billing budget cheap cheaper cost costs costly expensive money pay price prices pricing save saving savings "
        "spend spending spent".split()
    ),
    "latency": frozenset(
        "delay fast faster latency long ms quick quicker seconds slow slower slowest speed timeout timeouts wait".split()
    ),
    "capacity": frozenset(
        "batch batching burst bursts bursty capacity concurrency load peak peaks queue rate scale scaling spike spikes "
        "throughput traffic".split()
    ),
    "volume": frozenset(
        "amount count input inputs many output outputs prompt prompts request requests size sizes token tokens total usage "
        "volume".split()
    ),
}
"""The words that speak for an intent, whole and in any case. Where two intents have as many, the earlier one is taken."""

RESULTS: dict[str, set[str]] = {
    "triage": {"intent", "confidence", "rule", "columns", "absent_columns"},
    "data": {"facts", "groups"},
    "optimization": {"cost", "findings", "prices"},
    "actions": {"recommendations", "savings_together", "next_actions"},
}
"""What the result of an agent holds at least, when it is handed on to another."""

FALLBACK = "overview"
"""The intent of a question in which no word speaks for any other."""


def read_corpus(input: Mapping[str, JSON]) -> str:
    """The name of the corpus in `input`; AgentError INVALID_INPUT when it names none."""
    corpus = input.get("corpus")
    if not isinstance(corpus, str) or not corpus.strip():
        raise AgentError("INVALID_INPUT", 'Name the corpus to read as a string in "corpus".')
    return corpus


def read_request(input: Mapping[str, JSON]) -> dict[str, JSON]:
    """The question and the corpus in `input`; AgentError INVALID_INPUT when one is missing, empty or too long."""
    question = input.get("question")
    if not isinstance(question, str) or not question.strip():
        raise AgentError("INVALID_INPUT", 'Ask your question as a string in "question".')
    if len(question) > QUESTION_LIMIT:
        raise AgentError(
            "INVALID_INPUT",
            f"The question has {len(question):,} characters: shorten it to {QUESTION_LIMIT:,} or fewer.",
        )
    return {"question": question, "corpus": read_corpus(input)}


def read_results(input: Mapping[str, JSON], *agents: str) -> list[dict[str, JSON]]:
    """The results of other agents in `input`; AgentError INVALID_INPUT when one is absent or not what they return."""
    absent = [agent for agent in agents if not _is_result(agent, input.get(agent))]
    if absent:
        raise AgentError(
            "INVALID_INPUT",
            f"This agent works on the results of {', '.join(absent)}: start the agent supervisor, which hands them on.",
        )
    return [input[agent] for agent in agents]


def _is_result(agent: str, result: JSON) -> bool:
    return isinstance(result, dict) and RESULTS[agent] <= result.keys()


def classify(question: str) -> dict[str, JSON]:
    """What a question is about: {intent, confidence, rule, words}.

    `confidence` is the number of different words that speak for the intent, divided by the number of different words
    that speak for any intent; 0 when there is none. `rule` says in a sentence what decided.
    """
    words = set(re.findall(r"[a-z]+", question.casefold()))
    hits = {intent: sorted(words & speaking) for intent, speaking in RULES.items() if words & speaking}
    if not hits:
        rule = "No word of the question speaks for a topic, so this is an overview."
        return {"intent": FALLBACK, "confidence": 0.0, "rule": rule, "words": {}}
    intent = max(hits, key=lambda name: len(hits[name]))
    spoken = sum(map(len, hits.values()))
    return {
        "intent": intent,
        "confidence": round(len(hits[intent]) / spoken, 2),
        "rule": _rule(intent, hits),
        "words": hits,
    }


def _rule(intent: str, hits: Mapping[str, list[str]]) -> str:
    rule = f"The question is taken to be about {intent}, by the words: {', '.join(hits[intent])}."
    others = [f"{name} ({', '.join(words)})" for name, words in hits.items() if name != intent]
    return f"{rule} Fewer or later in the order: {'; '.join(others)}." if others else rule
