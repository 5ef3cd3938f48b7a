"""`carrel new ...`: the beginning of a project, complete enough to be tested and installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Annotated

import typer

from carrel_cli.command import output_command
from carrel_cli.errors import CommandError
from carrel_cli.output import Output

app = typer.Typer(help="The beginning of a project of your own.", no_args_is_help=True)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII).fullmatch

_TOOL_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "carrel-tool-{dashed}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["carrel"]

# tool-dispatch finds the tool by this when the package is installed beside it.
[project.entry-points."carrel.tools"]
{name} = "carrel_tool_{name}:{name}"

[tool.hatch.build.targets.wheel]
packages = ["carrel_tool_{name}"]
""",
    "carrel_tool_{name}/__init__.py": '''\
"""The tool {name}."""

from typing import Annotated

from pydantic import Field

import carrel
from carrel.tool import ToolFailure


# idempotent: running it again does no harm, so that a call which died half-way is repeated.
@carrel.tool(idempotent=True)
def {name}(text: Annotated[str, Field(max_length=10_000, description="What to count in.")]) -> dict[str, int]:
    """Counts the words of a text."""
    words = text.split()
    if not words:
        raise ToolFailure("TEXT_EMPTY", "The text has no words; give some.")
    return {{"words": len(words)}}
''',
    "tests/test_{name}.py": '''\
"""The tool as its callers have it."""

import asyncio

import pytest

from carrel.tool import ToolFailure
from carrel.tool_kit import ArgumentsRefused, run_tool
from carrel_tool_{name} import {name}


def test_words_are_counted() -> None:
    assert asyncio.run(run_tool({name}, text="one two")) == {{"words": 2}}


def test_a_text_without_words_is_refused() -> None:
    with pytest.raises(ToolFailure, match="give some"):
        asyncio.run(run_tool({name}, text=" "))


def test_arguments_are_checked() -> None:
    with pytest.raises(ArgumentsRefused):
        asyncio.run(run_tool({name}, words=1))
''',
    "README.md": """\
# {name}

A tool for Carrel.

```
pip install -e .        # in the environment of tool-dispatch
python -m pytest
carrel up               # `carrel tools` lists it
```
""",
}

_AGENT_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "carrel-agent-{dashed}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["carrel"]

# agent-execution finds the agent by this when the package is installed beside it.
[project.entry-points."carrel.agents"]
{name} = "carrel_agent_{name}:{name}"

[tool.hatch.build.targets.wheel]
packages = ["carrel_agent_{name}"]
""",
    "carrel_agent_{name}/__init__.py": '''\
"""The agent {name}."""

from pydantic import BaseModel, Field

import carrel
from carrel.agent import RunContext


class Question(BaseModel):
    """What the agent is given; a run with anything else is refused before it begins."""

    text: str = Field(min_length=1, max_length=10_000)


class Answer(BaseModel):
    """What it returns."""

    text: str


# Everything that touches the world goes through the context: then a run whose worker was killed goes on where it was.
@carrel.agent(version="1")
async def {name}(context: RunContext, input: Question) -> Answer:
    """Says back what it is told, by a tool."""
    await context.emit.thinking("I say it back.")
    said = await context.tools.call("echo", text=input.text)
    return Answer(text=said["text"])
''',
    "tests/test_{name}.py": '''\
"""The agent as its users have it; no server is needed."""

import asyncio

import pytest

from carrel.agent import AgentError
from carrel.testing import AgentRun, Call
from carrel_agent_{name} import {name}

TOOLS = {{"echo": lambda text: {{"text": text}}}}


def test_it_says_back_what_it_is_told() -> None:
    run = AgentRun({name}, {{"text": "hello"}}, tools=TOOLS)
    assert asyncio.run(run.finish()) == {{"text": "hello"}}
    assert run.events_of("agent_thinking") == ["I say it back."]


def test_after_a_crash_the_tool_is_not_called_again() -> None:
    async def crash_and_go_on() -> AgentRun:
        run = AgentRun({name}, {{"text": "hello"}}, tools=TOOLS)
        await run.advance()
        await run.crash()
        await run.finish()
        return run

    assert asyncio.run(crash_and_go_on()).calls == [Call("echo", {{"text": "hello"}})]


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(AgentError, match="text"):
        asyncio.run(AgentRun({name}, {{"text": ""}}, tools=TOOLS).finish())
''',
    "README.md": """\
# {name}

An agent for Carrel.

```
pip install -e .        # in the environment of agent-execution
python -m pytest
carrel up               # `carrel agents` lists it; `carrel run {name}` starts it
```
""",
}


@app.command("tool")
@output_command
async def tool(
    out: Output,
    name: Annotated[str, typer.Argument(help="Its name, in small letters, digits and underscores.")],
    folder: Annotated[Path, typer.Option(help="Where the project's folder is made.")] = Path(),
) -> None:
    """Makes a project with a tool and its test."""
    _make(out, "tool", name, folder, _TOOL_FILES)


@app.command("agent")
@output_command
async def agent(
    out: Output,
    name: Annotated[str, typer.Argument(help="Its name, in small letters, digits and underscores.")],
    folder: Annotated[Path, typer.Option(help="Where the project's folder is made.")] = Path(),
) -> None:
    """Makes a project with an agent and its test."""
    _make(out, "agent", name, folder, _AGENT_FILES)


def _make(out: Output, kind: str, name: str, folder: Path, files: Mapping[str, str]) -> None:
    if _NAME(name) is None or iskeyword(name):
        raise CommandError("NAME", f"The name {name!r} is none for {kind}s: use small letters, digits and underscores.")
    target = folder / f"carrel-{kind}-{name.replace('_', '-')}"
    if target.exists():
        raise CommandError("EXISTS", f"{target} is there already; choose another name or folder.")
    for path, text in files.items():
        file = target / path.format(name=name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=name, dashed=name.replace("_", "-")))
    out.document({"created": str(target)})
    out.text(f"{target} is made. Test it: cd {target} && python -m pytest")
