"""Charts show the numbers of the report, and the HTML page carries nothing that could act."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.resources import as_file
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.libs.agents.conftest import Ask

from carrel_agents.drawing import WIDTH, Series, bars, columns
from carrel_agents.examples import example_trace
from carrel_agents.prices import EXAMPLE_PRICES

Write = Callable[..., Path]

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def heights(svg: str) -> list[list[float]]:
    """The heights of the bars of each series, as they are drawn; the first path is the grid behind them."""
    paths = ET.fromstring(svg).findall(f"{SVG}path")[1:]
    return [[float(height) for height in re.findall(r"v-([\d.]+)h", path.get("d", ""))] for path in paths]


async def test_all_charts_are_there_and_are_svg(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path)
    names = ["requests_over_time", "tokens_over_time", "input_tokens", "output_tokens", "cost_by_model"]
    assert [chart["name"] for chart in report["charts"]] == names
    for chart in report["charts"]:
        assert ET.fromstring(chart["svg"]).tag == f"{SVG}svg"
        assert chart["svg"] in report["html"]


async def test_the_bars_are_as_high_as_the_numbers(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path)
    requests = [bucket[0] for bucket in report["facts"]["over_time"]["buckets"]]
    (drawn,) = heights(report["charts"][0]["svg"])
    scale = max(drawn) / max(requests)
    assert drawn == pytest.approx([n * scale for n in requests if n], abs=0.051)


def test_stacked_bars_stand_on_each_other() -> None:
    chart = columns("x", "x", [Series("a", [1, 0]), Series("b", [1, 4])], [], "")
    (first,), (second, third) = heights(chart.svg)
    assert first == second and third == pytest.approx(4 * first, abs=0.2)


def test_no_value_at_all_draws_no_bar() -> None:
    assert heights(columns("x", "x", [Series("a", [0, 0])], [], "").svg) == [[]]
    assert bars("x", "x", ["nothing"], [Series("a", [0.0])]).svg.count('width="0.0"') == 1


def test_texts_of_users_are_escaped_in_charts() -> None:
    svg = bars("x", HOSTILE, [HOSTILE + "\x07"], [Series("a", [1.0])]).svg
    assert "<img" not in svg
    assert [each.text for each in ET.fromstring(svg).iter(f"{SVG}text")][-1] == HOSTILE


async def test_parts_of_a_bar_are_as_wide_as_what_they_cost(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path)
    costs = [each[kind]["amount"] for each in report["cost"]["by_model"] for kind in ("input", "output")]
    boxes = ET.fromstring(report["charts"][-1]["svg"]).findall(f"{SVG}rect")[2:]  # two are the legend
    drawn = [float(box.get("width", "")) for box in boxes]
    assert drawn == pytest.approx([cost * sum(drawn[:2]) / sum(costs[:2]) for cost in costs], abs=0.2)


LONG = [f"2023-{1 + day // 28:02}-{1 + day % 28:02} 18:15:46,{7 ** (day % 8)},{9 ** (day % 8)}" for day in range(250)]


@pytest.mark.parametrize("rows", [LONG[:1], LONG[:2], LONG[:9], LONG], ids=len)
async def test_no_text_of_a_chart_is_cut_off_or_runs_into_another(ask: Ask, write: Write, rows: list[str]) -> None:
    report = await ask(write("TIMESTAMP,ContextTokens,GeneratedTokens", *rows))
    assert len(report["charts"]) == 5
    require_readable(report["charts"])


async def test_the_names_of_many_models_fit_into_their_chart(ask: Ask, write: Write) -> None:
    names = [f"{number}-{'a-model-of-a-very-long-name' * 4}" for number in range(25)]
    rates = {"input_per_million": 3_000, "output_per_million": 9_000}
    prices = {**EXAMPLE_PRICES, "models": {**EXAMPLE_PRICES["models"], **dict.fromkeys(names, rates)}}
    rows = [f"2023-11-16 18:15:46,123456789,123456789,{name}" for name in names]
    report = await ask(
        write("TIMESTAMP,ContextTokens,GeneratedTokens,Model", *rows), settings={"prices": prices}, question="Cost?"
    )
    assert report["charts"][-1]["title"] == "Cost by model, USD: the 20 that cost most"
    require_readable(report["charts"])


def require_readable(charts: list[dict[str, Any]]) -> None:
    """Asserts that each text is within its chart and that none runs into another."""
    for chart in charts:
        lines: dict[str, list[tuple[float, float]]] = {}
        for begin, end, height in extents(ET.fromstring(chart["svg"])):
            assert begin >= 0 and end <= WIDTH, (chart["name"], begin, end)
            lines.setdefault(height, []).append((begin, end))
        for texts in lines.values():
            texts.sort()
            assert all(before[1] < after[0] for before, after in pairwise(texts)), chart["name"]


def extents(svg: ET.Element) -> Iterator[tuple[float, float, str]]:
    """Where each text begins and ends, and at which height, by the mean width of a character in a common font."""
    for group in [svg, *svg.findall(f"{SVG}g")]:
        before = {"start": 0.0, "middle": 0.5, "end": 1.0}[group.get("text-anchor", "start")]
        for text in group.findall(f"{SVG}text"):
            width, place = 6.6 * len(text.text or ""), float(text.get("x", ""))
            yield place - before * width, place + (1 - before) * width, text.get("y", "")


class Page(HTMLParser):
    """What a browser would see: tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


async def test_the_page_has_no_script_and_loads_nothing(ask: Ask, write: Write) -> None:
    row = '2023-11-16 18:15:46,10,2,"<img src=x onerror=alert(1)>&""\'</style></svg><script>1</script>"'
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens,Model", *[row] * 3, "2023-11-16 18:15:46,10,2,example-large")
    report = await ask(path, f'What does it cost? </title><script>alert(1)</script>{HOSTILE} <a href="javascript:1">')
    page = Page(report["html"])
    assert not {"script", "img", "a", "iframe", "object", "link", "form", "input"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src", "xlink:href")]
    assert page.tags.count("style") == page.tags.count("html") == page.tags.count("body") == 1
    assert "default-src 'none'" in report["html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report["html"]


async def test_both_versions_have_the_same_sections(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path)
    assert re.findall(r"^## (.+)$", report["markdown"], re.MULTILINE) == re.findall(r"<h2>(.+?)</h2>", report["html"])
