"""Charts show the numbers of the report, and the HTML page carries nothing that could act."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import as_file
from pathlib import Path

import pytest
from tests.libs.agents.conftest import Ask

from carrel_agents.charts import Series, bars, columns
from carrel_agents.examples import example_trace

Write = Callable[..., Path]

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def heights(svg: str) -> list[list[float]]:
    """The heights of the bars of each series, as they are drawn."""
    paths = ET.fromstring(svg).findall(f"{SVG}path")[:-1]
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
    chart = columns("x", "x", [Series("a", [1, 0]), Series("b", [1, 4])], ("", ""))
    (first,), (second, third) = heights(chart.svg)
    assert first == second and third == pytest.approx(4 * first, abs=0.2)


def test_no_value_at_all_draws_no_bar() -> None:
    assert heights(columns("x", "x", [Series("a", [0, 0])], ("", "")).svg) == [[]]
    assert bars("x", "x", ["nothing"], [0.0]).svg.count('width="0.0"') == 1


def test_texts_of_users_are_escaped_in_charts() -> None:
    svg = bars("x", HOSTILE, [HOSTILE + "\x07"], [1.0]).svg
    assert "<img" not in svg
    assert [each.text for each in ET.fromstring(svg).iter(f"{SVG}text")][-1] == HOSTILE


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
