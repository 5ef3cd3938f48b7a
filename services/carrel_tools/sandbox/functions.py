"""Runs a tool that is a function, in the process that was made for it. It knows no desk: there is none in here."""

from __future__ import annotations

import json
import sys
from functools import reduce
from typing import Any

from carrel.tool import FunctionTool, ToolFailure
from carrel_chassis.sandbox.zygote import Place


def run(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """{"module", "tool", "arguments"} → {"result"}, or {"failure": [reason, message]} for what the function refuses."""
    module: Any = sys.modules[request["module"]]
    found: type[FunctionTool] = reduce(getattr, request["tool"].split("."), module)
    try:
        result = found.result(found.function(**found.parameters(request["arguments"])))
        json.dumps(result, allow_nan=False)
    except ToolFailure as failure:
        return {"failure": [failure.reason, failure.message]}
    return {"result": result}
