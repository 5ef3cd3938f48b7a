"""What an agent is asked: the checks of a request, and the rules by words that say what a question is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from carrel.agent import JSON
from carrel_agents.goals import read_goals

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

ADMINISTRATION = re.compile(
    r"\s*(please\s+)?(delete|remove|rename|import|export|validate)\b.*\b(corpus|corpora|trace|file)\b", re.IGNORECASE
)
"""A request to change what is stored rather than to look at it."""

BY_MODEL = re.compile(r"\b(which|by|per|each|every)\s+models?\b", re.IGNORECASE)
"""A question that can only be answered where the trace names the model of each request."""

FALLBACK = "overview"
"""The intent of a question in which no word speaks for any other."""


def check_question(question: str) -> str:
    """The question; ValueError when it is empty or too long."""
    if not question.strip():
        raise ValueError("ask something")
    if len(question) > QUESTION_LIMIT:
        raise ValueError(f"it has {len(question):,} characters; shorten it to {QUESTION_LIMIT:,} or fewer")
    return question


def check_corpus(corpus: str) -> str:
    """The name; ValueError when it is empty."""
    if not corpus.strip():
        raise ValueError("name a corpus, or leave it out to be asked for one")
    return corpus


def category(question: str) -> Literal["analysis", "goals", "administration"]:
    """Whether a question wants something looked at, something reached, or something stored to be changed."""
    if ADMINISTRATION.match(question):
        return "administration"
    return "goals" if read_goals(question) else "analysis"


def wanted_columns(question: str, intent: str) -> list[str]:
    """The optional columns without which the question cannot be answered."""
    return [*(["LatencyMs"] if intent == "latency" else []), *(["Model"] if BY_MODEL.search(question) else [])]


def named(question: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that stand in the question, as words and in any case."""
    text = question.casefold()
    return tuple(
        dict.fromkeys(name for name in names if re.search(rf"(?<![\w-]){re.escape(name.casefold())}(?![\w-])", text))
    )


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
