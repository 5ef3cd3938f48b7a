"""Charts as SVG: bars, upright and lying, stacked where they have parts. The same numbers give the same bytes; every text is escaped.

Texts and lines have the colour of the text around the chart, so that a page decides whether it is light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from carrel_agents.scales import Mark, round_marks

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM, _EDGE = 48, 18, 44, 40, 8
_ROW, _WIDEST = 40, 96
_COLOURS = ("#3b7dc4", "#c9730f")
"""Each is seen on white and on black, and the two are told apart by those who do not see red or green."""


class Chart(NamedTuple):
    """A drawing; `name` is stable, such as "requests_over_time"."""

    name: str
    title: str
    svg: str


class Series(NamedTuple):
    """Numbers of one kind, one for each place of a chart."""

    name: str
    values: Sequence[float]
    """0 or more; those of `columns` are counts."""


def columns(name: str, title: str, series: Sequence[Series], marks: Sequence[Mark], axis: str) -> Chart:
    """Upright bars over equal steps, stacked where there are several series.

    `marks` are places of bars, 0 being that of the first; `axis` says what they are.
    """
    number = len(series[0].values)
    levels = round_marks(int(max(map(sum, _places(series)))))
    step = (WIDTH - _LEFT - _RIGHT) / number
    width = min(step * 0.86, _WIDEST)
    floor = HEIGHT - _BOTTOM
    scale = (floor - _TOP) / (levels[-1].place or 1)
    lines = "".join(f"M{_LEFT} {floor - level.place * scale:.1f}H{WIDTH - _RIGHT}" for level in levels)
    base = [0.0] * number
    bars = []
    for each, colour in zip(series, _COLOURS, strict=False):
        path = ""
        for place, value in enumerate(each.values):
            if value:
                left, bottom, height = _LEFT + (place + 0.5) * step - width / 2, floor - base[place], value * scale
                path += f"M{left:.1f} {bottom:.1f}v-{height:.1f}h{width:.1f}v{height:.1f}z"
                base[place] += height
        bars.append(f'<path d="{path}" fill="{colour}"/>')
    parts = [
        _grid(lines),
        *bars,
        _texts("end", [(_LEFT - 6, floor - level.place * scale + 4, level.label) for level in levels]),
        _texts("middle", [(_LEFT + (mark.place + 0.5) * step, floor + 16, mark.label) for mark in marks]),
        _texts("middle", [((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, axis)]),
    ]
    return _chart(name, title, HEIGHT, series, parts)


def bars(name: str, title: str, labels: Sequence[str], series: Sequence[Series]) -> Chart:
    """Lying bars, each under its label, in parts where there are several series."""
    highest = max(map(sum, _places(series)))
    scale = (WIDTH - 2 * _EDGE) / highest if highest else 0.0
    parts = [_texts("start", [(_EDGE, _TOP + _ROW * place, label) for place, label in enumerate(labels)])]
    for place, values in enumerate(_places(series)):
        left = float(_EDGE)
        for value, colour in zip(values, _COLOURS, strict=False):
            box = f'x="{left:.1f}" y="{_TOP + _ROW * place + 6}" width="{value * scale:.1f}" height="16"'
            parts.append(f'<rect {box} fill="{colour}"/>')
            left += value * scale
    return _chart(name, title, _TOP + _ROW * len(labels), series, parts)


def _places(series: Sequence[Series]) -> list[tuple[float, ...]]:
    return list(zip(*(each.values for each in series), strict=True))


def _chart(name: str, title: str, height: int, series: Sequence[Series], parts: Sequence[str]) -> Chart:
    head = f'<text x="{_EDGE}" y="18" font-weight="bold">{_shown(title)}</text>'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif" '
        f'font-size="12" fill="currentColor"><title>{_shown(title)}</title>{head}{_legend(series)}{"".join(parts)}</svg>'
    )
    return Chart(name, title, svg)


def _legend(series: Sequence[Series]) -> str:
    """What each colour means, where there are several: at the right of the title."""
    if len(series) < 2:
        return ""
    parts = []
    for place, (each, colour) in enumerate(zip(series, _COLOURS, strict=False)):
        left = WIDTH - _EDGE - 80 * (len(series) - place)
        parts.append(f'<rect x="{left}" y="9" width="10" height="10" fill="{colour}"/>')
        parts.append(_texts("start", [(left + 16, 18, each.name)]))
    return "".join(parts)


def _grid(lines: str) -> str:
    return f'<path d="{lines}" stroke="currentColor" stroke-opacity=".2"/>'


def _texts(anchor: str, texts: Sequence[tuple[float, float, str]]) -> str:
    inner = "".join(f'<text x="{x:.0f}" y="{y:.0f}">{_shown(text)}</text>' for x, y, text in texts)
    return f'<g text-anchor="{anchor}">{inner}</g>'


def _shown(text: str) -> str:
    """Escaped, and without the characters that XML cannot hold."""
    return escape("".join(character for character in text if character.isprintable()))
