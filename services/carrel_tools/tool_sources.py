"""Where tools come from beside those that come with Carrel: modules that the operator names, and packages that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from carrel_tools.tool import FunctionTool, Tool

GROUP = "carrel.tools"
"""The group of entry points, each of which is a tool or a module with a tuple `TOOLS`."""


def added_tools(tool_modules: str) -> list[type[Tool]]:
    """The tools of the comma-separated modules, each of which has a tuple `TOOLS`, and those of installed packages.

    Raises ImportError or AttributeError for what cannot be loaded: a service that lacks a tool it was told to have does not start.
    """
    names = [name.strip() for name in tool_modules.split(",") if name.strip()]
    named = [tool for name in names for tool in _tools_in(importlib.import_module(name))]
    installed = [tool for entry in entry_points(group=GROUP) for tool in _tools_in(entry.load())]
    return list(dict.fromkeys([*named, *installed]))


def _tools_in(found: Any) -> tuple[type[Tool], ...]:
    if isinstance(found, type) and issubclass(found, Tool):
        return (found,)
    return tuple(found.TOOLS)


def source_roots(modules: Iterable[str]) -> list[Path]:
    """The folders from which these modules were imported."""
    roots = [
        Path(spec.origin).parents[name.count(".") + bool(spec.submodule_search_locations)]
        for name in modules
        if (spec := find_spec(name)) is not None and spec.origin
    ]
    return list(dict.fromkeys(roots))


def sandboxed_modules(classes: Iterable[type[Tool]]) -> list[str]:
    """The modules of the functions that run in the sandbox: it has to have them loaded."""
    return sorted(
        {each.function.__module__ for each in classes if issubclass(each, FunctionTool) and each.sandbox_level}
    )
