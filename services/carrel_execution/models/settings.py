"""The language models that the operator has set up: a file in JSON or TOML.

    [models.small]
    address = "https://api.example.com/v1"   # anything that speaks the OpenAI chat API
    model = "small-2"                        # its name there
    key_file = "small.key"                   # beside this file, or key_env = "SMALL_KEY"; neither for one that asks for none
    input_usd = 0.15                         # per million tokens; without prices the cost is unknown
    output_usd = 0.60
    timeout_seconds = 60                     # for one try
    attempts = 3
    fallback = "large"                       # asked when this one does not answer

The first is the one that is meant when an agent names none.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from carrel_chassis.errors import invalid


class ModelSettings(BaseModel):
    """One model. Its key is read when the service starts and is in no text that anybody sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(pattern="^https?://[^ ]+$")
    model: str = Field(min_length=1)
    key_env: str = ""
    key_file: Path | None = None
    input_usd: float | None = Field(default=None, ge=0)
    """For a million tokens."""
    output_usd: float | None = Field(default=None, ge=0)
    timeout_seconds: float = Field(default=60.0, gt=0)
    attempts: int = Field(default=3, ge=1, le=10)
    fallback: str = ""

    def beside(self, path: Path) -> ModelSettings:
        """With its key where it is meant to be: as seen from the file that these settings are in."""
        return self if self.key_file is None else self.model_copy(update={"key_file": path.parent / self.key_file})

    def key(self, name: str) -> SecretStr:
        """The key; "" for a model without one. Raises CarrelError when it is not where the settings say."""
        if self.key_file is not None:
            try:
                return SecretStr(self.key_file.read_text().strip())
            except (OSError, UnicodeDecodeError) as error:
                raise _unusable(f"the key of the model {name} cannot be read from {self.key_file}") from error
        if not self.key_env:
            return SecretStr("")
        if not (value := os.environ.get(self.key_env)):
            raise _unusable(f"the key of the model {name} is not in the environment: set {self.key_env}")
        return SecretStr(value)

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float | None:
        """What a call costs; None when a price is missing."""
        if self.input_usd is None or self.output_usd is None:
            return None
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6


def load_models(path: Path | None) -> dict[str, ModelSettings]:
    """The models of the file, in its order; none without a file. Raises CarrelError, one sentence, for a file that cannot be used."""
    if path is None:
        return {}
    try:
        text = path.read_text()
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        found = document["models"]
        models = {name: ModelSettings.model_validate(value) for name, value in found.items()}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _unusable(f"in {path}, {place} of a model: {first['msg']}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(f"{path} is no JSON or TOML file with a table `models` ({type(error).__name__})") from error
    for name, model in models.items():
        _check_fallback(name, model, models)
    return {name: model.beside(path) for name, model in models.items()}


def _check_fallback(name: str, model: ModelSettings, models: Mapping[str, Any]) -> None:
    seen = {name}
    while model.fallback:
        if model.fallback not in models:
            raise _unusable(f"the fallback of the model {name} is {model.fallback}, which is none of the models")
        if model.fallback in seen:
            raise _unusable(f"the model {name} falls back to itself by way of {model.fallback}")
        seen.add(model.fallback)
        model = models[model.fallback]


def _unusable(sentence: str) -> Exception:
    return invalid("models_file", f"The models cannot be used: {sentence}.")
