"""The price table: an example of one, and the check of one that is read from a file or a setting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from carrel.agent import JSON, AgentError

EXAMPLE_PRICES: dict[str, JSON] = {
    "currency": "USD",
    "label": "example prices, not those of any vendor",
    "models": {
        "example-large": {"input_per_million": 3.0, "output_per_million": 12.0},
        "example-small": {"input_per_million": 0.2, "output_per_million": 0.8},
    },
    "assumed_model": "example-large",
    "smaller_model": "example-small",
}
"""Made-up prices, so that a first report shows its arithmetic; replace them by the setting "prices"."""

TEXTS = ("currency", "label", "assumed_model", "smaller_model")
RATES = ("input_per_million", "output_per_million")


class PricesInvalid(ValueError):
    """A price table that cannot be used; `faults` has one sentence for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(" ".join(faults))
        self.faults = tuple(faults)


def load_prices(path: Path | str) -> dict[str, JSON]:
    """Reads a price table from a JSON file; raises PricesInvalid, also when the file cannot be read."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PricesInvalid([f"The price table {path} cannot be read: {error.strerror}."]) from error
    except ValueError as error:
        raise PricesInvalid([f"The price table {path} is not JSON: {error}."]) from error
    return check_prices(table)


def check_prices(table: JSON) -> dict[str, JSON]:
    """The same table, once it has the shape of EXAMPLE_PRICES; raises PricesInvalid."""
    if not isinstance(table, Mapping):
        raise PricesInvalid(["The price table must be a JSON object."])
    faults = [f'"{key}" is not part of a price table.' for key in table if key not in (*TEXTS, "models")]
    faults += [f'"{key}" must be a text that is not empty.' for key in TEXTS if not _is_text(table.get(key))]
    faults += _faults_of_models(table.get("models"))
    if not faults:
        faults = [
            f'"{key}" is "{table[key]}", which "models" does not price.'
            for key in ("assumed_model", "smaller_model")
            if table[key] not in table["models"]
        ]
    if faults:
        raise PricesInvalid(faults)
    return dict(table)


def prices_in_effect(settings: Mapping[str, JSON]) -> dict[str, JSON]:
    """The price table of the settings, or the example; AgentError PRICES_INVALID when the setting is wrong."""
    if settings.get("prices") is None:
        return EXAMPLE_PRICES
    try:
        return check_prices(settings["prices"])
    except PricesInvalid as error:
        raise AgentError("PRICES_INVALID", f'Correct the setting "prices": {error}') from error


def _faults_of_models(models: JSON) -> list[str]:
    if not isinstance(models, Mapping) or not models:
        return ['"models" must be an object with the rates of at least one model.']
    faults = [fault for name, rates in models.items() for fault in _faults_of_rates(name, rates)]
    keys = [_key(name) for name in models]
    faults += [f'"models.{name}" is there twice but for its case.' for name in models if keys.count(_key(name)) > 1]
    return faults


def _faults_of_rates(name: JSON, rates: JSON) -> list[str]:
    if not _is_text(name):
        return ['A name in "models" is empty.']
    if not isinstance(rates, Mapping):
        return [f'"models.{name}" must be an object with {" and ".join(RATES)}.']
    faults = [f'"models.{name}.{key}" is not a rate.' for key in rates if key not in RATES]
    faults += [
        f'"models.{name}.{key}" must be a number, 0 or more, per million tokens.'
        for key in RATES
        if not _is_rate(rates.get(key))
    ]
    return faults


def find_model(prices: Mapping[str, JSON], model: str | None) -> str | None:
    """The entry that prices a model named in a trace, whatever its case; the assumed one where a trace names none."""
    if model is None:
        return str(prices["assumed_model"])
    return next((name for name in prices["models"] if _key(name) == _key(model)), None)


def entry(prices: Mapping[str, JSON], model: str) -> dict[str, JSON]:
    """The line of the price table for a model, as a report cites it."""
    return {"model": model, "label": prices["label"], "currency": prices["currency"], **prices["models"][model]}


def _key(name: str) -> str:
    return name.strip().casefold()


def _is_text(value: JSON) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_rate(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
