"""A request for a text and the answer of a model, without the library that talks to models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from carrel.agent_errors import JSON


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What a model wrote, and what it took."""

    text: str
    model: str
    """Its name among the settings: another than the one that was asked, when that had to fall back."""
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """None where no price is set."""


def text_request(
    prompt: str, instructions: str = "", temperature: float | None = None, max_tokens: int | None = None
) -> dict[str, JSON]:
    """A request that has one answer, a text."""
    message: dict[str, JSON] = {
        "kind": "request",
        "parts": [{"part_kind": "user-prompt", "content": prompt}],
        "instructions": instructions or None,
    }
    settings = {"temperature": temperature, "max_tokens": max_tokens}
    return {
        "messages": [message],
        "settings": {name: value for name, value in settings.items() if value is not None},
        "parameters": {},
    }


def answer_of(result: Mapping[str, JSON]) -> ModelAnswer:
    """The answer in what a model's call returned."""
    return ModelAnswer(
        text=text_of(result["response"]),
        model=result["model"],
        input_tokens=result["input_tokens"],
        output_tokens=result["output_tokens"],
        cost_usd=result["cost_usd"],
    )


def text_of(response: Mapping[str, JSON]) -> str:
    """The text in a response, without what the model thought and which tools it wants."""
    return "".join(part["content"] for part in response["parts"] if part["part_kind"] == "text")
