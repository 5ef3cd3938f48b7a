"""Calls for tests of the sandbox: they run in its processes, and try what they are told to."""

from __future__ import annotations

import ctypes  # noqa: F401 (what the attempts need is loaded before they are shut in)
import encodings.idna  # noqa: F401
import os
import socket  # noqa: F401
import subprocess  # noqa: F401
import threading  # noqa: F401
import time
from typing import Any

from carrel_chassis.sandbox.zygote import Place


def attempt(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """Runs the code, which sets `got`; {"got": ...} or {"refused": the error's type and text}."""
    names: dict[str, Any] = {"place": place, **request.get("names", {})}
    try:
        exec(request["code"], names)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"got": repr(names.get("got"))}


def read(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """The text of each file that came with the call."""
    texts = []
    for number in range(len(place.files)):
        with open(place.path(number)) as file:
            texts.append(file.read())
    return {"texts": texts, "environment": dict(os.environ), "folder": sorted(os.listdir(place.folder))}


def flood(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """More than an answer may be."""
    return {"text": "x" * request["bytes"]}


def sleep(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """Longer than anybody waits."""
    time.sleep(600)
    return {}
