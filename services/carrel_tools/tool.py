"""The seam of tools, under the name that this service knows it by; authors know it as `carrel.tool`."""

from __future__ import annotations

from carrel.tool import JSON, Desk, FunctionTool, Probe, Tool, ToolFailure

__all__ = ["JSON", "Desk", "FunctionTool", "Probe", "Tool", "ToolFailure"]
