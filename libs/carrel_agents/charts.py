"""Charts as SVG: bars, stacked and side by side. The same numbers give the same bytes, and every text is escaped.

A drawing library would bring fonts and a renderer; these are four charts of rectangles, and what is drawn can be read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from carrel.agent import JSON
from carrel_agents.formula import money, show

Row = Mapping[str, JSON]

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 48, 24
_COLOURS = ("#2563a8", "#e08a1e")
_MOST_BARS = 20


class Chart(NamedTuple):
    """A drawing; `name` is stable, such as "requests_over_time"."""

    name: str
    title: str
    svg: str


class Series(NamedTuple):
    """Numbers of one kind, one for each place of a chart."""

    name: str
    values: Sequence[float]


def charts_of(report: Row) -> list[Chart]:
    """All charts for which the report has numbers."""
    facts = report["facts"]
    drawn: list[Chart] = []
    if "over_time" in facts:
        drawn += _over_time(facts["over_time"], facts["last_time"])
        drawn += [_sizes(kind, facts["sizes"][kind]) for kind in ("input", "output")]
    if report["cost"] is not None and report["cost"]["amount"]:
        drawn.append(_cost_by_model(report["cost"]))
    return drawn


def _over_time(over_time: Row, last_time: str) -> list[Chart]:
    requests, inputs, outputs = zip(*over_time["buckets"], strict=True)
    minutes = over_time["bucket_minutes"]
    every = "minute" if minutes == 1 else f"{minutes:,} minutes"
    ends = (over_time["first_minute"], last_time[:16])
    return [
        columns("requests_over_time", f"Requests in each {every}", [Series("requests", requests)], ends),
        columns(
            "tokens_over_time", f"Tokens in each {every}", [Series("input", inputs), Series("output", outputs)], ends
        ),
    ]


def _sizes(kind: str, sizes: Sequence[Row]) -> Chart:
    counts = {size["from"]: size["requests"] for size in sizes}
    largest = max(counts)
    starts = [0, *(2**power for power in range(largest.bit_length()))]
    title = f"Requests by {kind} tokens; each bar is twice as wide in tokens as the one before"
    ends = ("no token", f"from {show(starts[-1])} tokens")
    return columns(f"{kind}_tokens", title, [Series("requests", [counts.get(start, 0) for start in starts])], ends)


def _cost_by_model(cost: Row) -> Chart:
    models = sorted(cost["by_model"], key=lambda each: -each["amount"])[:_MOST_BARS]
    labels = [
        f"{'not named' if each['model'] is None else each['model'][:60]}: {money(each['amount'])} {cost['currency']}"
        for each in models
    ]
    return bars("cost_by_model", f"Cost by model, {cost['currency']}", labels, [each["amount"] for each in models])


def columns(name: str, title: str, series: Sequence[Series], ends: tuple[str, str]) -> Chart:
    """Upright bars over equal steps, stacked where there are several series; `ends` names the first and the last place."""
    count = len(series[0].values)
    highest = max(sum(values) for values in zip(*(each.values for each in series), strict=True))
    step = (WIDTH - _LEFT - _RIGHT) / count
    room, floor = HEIGHT - _TOP - _BOTTOM, HEIGHT - _BOTTOM
    parts, base = [], [0.0] * count
    for each, colour in zip(series, _COLOURS, strict=False):
        path = ""
        for place, value in enumerate(each.values):
            height = room * value / highest if highest else 0.0
            if value:
                left, bottom = _LEFT + place * step, floor - base[place]
                path += f"M{left:.1f} {bottom:.1f}v{-height:.1f}h{step * 0.86:.1f}v{height:.1f}z"
            base[place] += height
        parts.append(f'<path d="{path}" fill="{colour}"/>')
    parts.append(f'<path d="M{_LEFT} {floor}H{WIDTH - _RIGHT}" stroke="#888"/>')
    parts.append(_text(_LEFT, _TOP - 8, f"highest: {show(highest)}"))
    if len(series) > 1:
        for place, (each, colour) in enumerate(zip(series, _COLOURS, strict=False)):
            parts.append(_text(WIDTH - 160 + 80 * place, _TOP - 8, f"■ {each.name}", colour))
    parts.append(_text(_LEFT, HEIGHT - 8, ends[0]))
    parts.append(_text(WIDTH - _RIGHT, HEIGHT - 8, ends[1], anchor="end"))
    return _chart(name, title, HEIGHT, parts)


def bars(name: str, title: str, labels: Sequence[str], values: Sequence[float]) -> Chart:
    """Lying bars, each under its label."""
    highest = max(values)
    parts = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        top = _TOP + 40 * place
        width = (WIDTH - _LEFT - _RIGHT) * value / highest if highest else 0.0
        parts.append(_text(_LEFT, top, label))
        parts.append(f'<rect x="{_LEFT}" y="{top + 6}" width="{width:.1f}" height="16" fill="{_COLOURS[0]}"/>')
    return _chart(name, title, _TOP + 40 * len(values), parts)


def _chart(name: str, title: str, height: int, parts: Sequence[str]) -> Chart:
    head = _text(_LEFT, 18, title, weight="bold")
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>{_shown(title)}</title>{head}{"".join(parts)}</svg>'
    )
    return Chart(name, title, svg)


def _text(x: float, y: float, text: str, colour: str = "#333", *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {style}>{_shown(text)}</text>'


def _shown(text: str) -> str:
    """Escaped, and without the characters that XML cannot hold."""
    return escape("".join(character for character in text if character.isprintable()))
