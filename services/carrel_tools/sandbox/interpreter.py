"""A Python interpreter for code of others: what it prints and leaves comes back, capped. It knows no user and no corpus but as files."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import linecache
import os
import stat
import sys
import traceback
from types import CodeType
from typing import Any

from carrel_chassis.sandbox.zygote import Place

MAX_TEXT = 64 * 1024
"""Characters that are kept of each of stdout and stderr."""
MAX_FILES = 20
MAX_FILE_BYTES = 8 * 1024 * 1024
MAX_INLINE_BYTES = 256 * 1024
_NAME = "<code>"


def run(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """{"code", "arguments", "names", "keep"} and files → {"value", "stdout", "stderr", "truncated", "error", "files", "kept"}.

    `names` are those of the files in the working directory; `arguments` is a global of the code. "value" is that of a last line that
    is an expression, as JSON, or else its repr. "error" is {"type", "message", "line"} of what the code raised, None otherwise.
    "files" are what it left in the folder, "kept" the content of those that `keep` names, in base64.
    """
    for number, name in enumerate(request["names"]):
        os.symlink(place.path(number), name)
    out, err = _Capped(), _Capped()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        value, error = _run(request["code"], request["arguments"])
    files, kept = _left(set(request["names"]), request["keep"])
    return {
        "value": value,
        "stdout": out.getvalue(),
        "stderr": err.getvalue(),
        "truncated": out.truncated or err.truncated,
        "error": error,
        "files": files,
        "kept": kept,
    }


class _Capped(io.StringIO):
    """Keeps the beginning of what is written, and says whether there was more."""

    truncated = False

    def write(self, text: str) -> int:
        room = MAX_TEXT - self.tell()
        if len(text) > room:
            self.truncated = True
        super().write(text[: max(0, room)])
        return len(text)


def _run(source: str, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, "arguments": arguments}
    # Tracebacks show the lines of the code.
    linecache.cache[_NAME] = (len(source), None, source.splitlines(keepends=True), _NAME)
    try:
        body, last = _compiled(source)
        exec(body, names)
        return (_shown(eval(last, names)) if last is not None else None), None
    except SystemExit as end:
        return None, None if not end.code else _told(end)
    except Exception as error:
        return None, _told(error)


def _compiled(source: str) -> tuple[CodeType, CodeType | None]:
    tree = ast.parse(source, _NAME)
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return compile(tree, _NAME, "exec"), None
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    return compile(tree, _NAME, "exec"), compile(ast.Expression(last.value), _NAME, "eval")


def _shown(value: Any) -> Any:
    try:
        if len(json.dumps(value, allow_nan=False)) <= MAX_TEXT:
            return value
    except (TypeError, ValueError, RecursionError):
        pass
    return repr(value)[:MAX_TEXT]


def _told(error: BaseException) -> dict[str, Any]:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _NAME]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    sys.stderr.write("".join(traceback.format_exception_only(error))[:2000])
    return {"type": type(error).__name__, "message": str(error)[:2000], "line": lines[-1] if lines else None}


def _left(given: set[str], keep: list[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What lies in the folder, the first 20 by name, small ones with their content; and the content of those to keep."""
    files: list[dict[str, Any]] = []
    kept: dict[str, str] = {}
    inline = 0
    for name in sorted(set(os.listdir(".")) - given):
        content = _content(name)
        if content is None:
            continue
        if name in keep:
            kept[name] = base64.b64encode(content).decode()
        if len(files) == MAX_FILES:
            continue
        entry: dict[str, Any] = {"name": name, "size_bytes": len(content)}
        if inline + len(content) <= MAX_INLINE_BYTES:
            inline += len(content)
            entry["content_base64"] = base64.b64encode(content).decode()
        files.append(entry)
    return files, kept


def _content(name: str) -> bytes | None:
    """Of an ordinary file that is not too large; a symbolic link is not followed."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        return file.read() if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_FILE_BYTES else None
