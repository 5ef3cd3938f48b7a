"""For tests of tools: runs one as tool-dispatch would, in this process, at a desk with the corpora that the test gives.

    result = await run_tool(count_words, LocalDesk({"sales": "name,amount\\nann,1\\n"}), text="one two")

The desk does what the real one promises to a tool that asks for little: corpora are CSV and lie in memory, nothing is shut in, pages are
those that the test gives. What a tool is not granted it is refused here too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
from jsonschema import Draft202012Validator

from carrel.tool import JSON, FunctionTool, Tool, ToolFailure

MAX_RESULT_BYTES = 1024 * 1024
_SECONDS = 60.0


class ArgumentsRefused(Exception):
    """The arguments do not fit the schema of the tool."""


async def run_tool(tool: type[Tool], desk: LocalDesk | None = None, **arguments: JSON) -> JSON:
    """The result as a caller gets it, after JSON.

    Raises ToolFailure as the tool does, ArgumentsRefused, and TypeError or ValueError for a result that is no JSON or has too many bytes.
    """
    given = json.loads(json.dumps(arguments))
    wrong = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(tool.arguments_schema).iter_errors(given)
    ]
    if wrong:
        raise ArgumentsRefused("; ".join(wrong))
    desk = desk or LocalDesk()
    desk.tool = tool
    text = json.dumps(await tool().execute(given, desk), allow_nan=False)
    if len(text.encode()) > MAX_RESULT_BYTES:
        raise ValueError(f"the result has more than {MAX_RESULT_BYTES} bytes")
    return json.loads(text)


class LocalDesk:
    """A `carrel.tool.Desk` for one tool at a time."""

    tool: type[Tool] = FunctionTool
    """For which it is set up: `run_tool` says so."""

    def __init__(self, corpora: Mapping[str, str] | None = None, pages: Mapping[str, bytes] | None = None) -> None:
        """`corpora` are CSV texts by name, `pages` contents by URL."""
        self.texts = dict(corpora or {})
        self.pages = dict(pages or {})
        self.told: list[tuple[str, int, int]] = []
        """What the tool has told of its progress: (message, done, total)."""

    @property
    def corpora(self) -> Mapping[str, Sequence[str]]:
        own = self.texts if self.tool.reads_corpora else {}
        return {name: next(csv.reader(io.StringIO(text)), []) for name, text in own.items()}

    def remaining_seconds(self) -> float:
        return _SECONDS

    def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        self.told.append((message, done, total))

    async def query(self, sql: str, max_rows: int) -> dict[str, JSON]:
        with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
            for name in self.corpora:
                path = Path(folder) / f"{name}.csv"
                path.write_text(self.texts[name])
                database.execute(f"CREATE VIEW \"{name}\" AS SELECT * FROM read_csv('{path}', all_varchar = true)")
            try:
                cursor = database.execute(sql)
                columns = [name for name, *_ in cursor.description or []]
                rows = cursor.fetchmany(max_rows + 1)
            except duckdb.Error as error:
                raise ToolFailure("SQL_ERROR", str(error).partition("\n")[0]) from None
        return {"columns": columns, "rows": [list(row) for row in rows[:max_rows]], "truncated": len(rows) > max_rows}

    async def search(self, words: str, corpora: Sequence[str], max_hits: int) -> dict[str, JSON]:
        """The rows that hold all the words, without a ranking."""
        wanted = [word.casefold() for word in re.findall(r"\w+", words)]
        if not wanted:
            raise ToolFailure("QUERY_INVALID", "There is no word to search for.")
        rows = [
            {"corpus": name, "place": place, "score": 1.0, "snippet": line}
            for name in corpora or self.corpora
            for place, line in enumerate(self._text(name).splitlines()[1:], 1)
        ]
        found = [row for row in rows if all(word in str(row["snippet"]).casefold() for word in wanted)]
        return {"hits": found[:max_hits], "searched": len(rows)}

    async def read_corpus(self, name: str, max_bytes: int) -> bytes:
        content = self._text(name).encode()
        if len(content) > max_bytes:
            raise ToolFailure("TOO_LARGE", f"{name} has {len(content)} bytes; at most {max_bytes} can be read.")
        return content

    async def save_corpus(self, name: str, media_type: str, content: bytes, *, replace: bool) -> dict[str, JSON]:
        self._grant("corpora.write")
        if name in self.texts and not replace:
            raise ToolFailure("CORPUS_EXISTS", f"You have a corpus {name}; choose another name.")
        self.texts[name] = content.decode()
        return {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    async def rename_corpus(self, name: str, new_name: str) -> None:
        self._grant("corpora.admin")
        if new_name in self.texts:
            raise ToolFailure("CORPUS_EXISTS", f"You have a corpus {new_name}; choose another name.")
        self._text(name)
        self.texts[new_name] = self.texts.pop(name)

    async def check_corpus(self, name: str) -> dict[str, JSON]:
        rows = list(csv.reader(io.StringIO(self._text(name))))
        digest = hashlib.sha256(self.texts[name].encode()).hexdigest()
        return {"columns": rows[0], "types": ["VARCHAR"] * len(rows[0]), "rows": len(rows) - 1, "sha256": digest}

    async def delete_corpus(self, name: str) -> None:
        self._grant("corpora.admin")
        self._text(name)
        del self.texts[name]

    async def run_sandboxed(
        self,
        call: str,
        request: Mapping[str, JSON],
        *,
        corpora: Sequence[str] = (),
        memory_mb: int = 256,
        disk_mb: int = 0,
    ) -> dict[str, JSON]:
        """Runs a function tool in this process; other calls need tool-dispatch."""
        if not issubclass(self.tool, FunctionTool) or not self.tool.sandbox_level:
            raise ToolFailure("NOT_GRANTED", "This tool is no function that runs in the sandbox.")
        tool = self.tool
        return {"result": tool.result(tool.function(**tool.parameters(request["arguments"])))}

    async def fetch(self, url: str, max_bytes: int) -> dict[str, JSON]:
        if not self.tool.network:
            raise ToolFailure("NOT_GRANTED", "This tool does not say that it uses the network.")
        if url not in self.pages:
            raise ToolFailure("HOST_NOT_ALLOWED", f"The test gave no page {url}.")
        return {"state": 200, "url": url, "media_type": "text/plain", "content": self.pages[url][:max_bytes]}

    def _grant(self, scope: str) -> None:
        if scope not in self.tool.scopes:
            raise ToolFailure("NOT_GRANTED", f"This tool does not demand the scope {scope}.")

    def _text(self, name: str) -> str:
        if name not in self.texts:
            raise ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {name}.")
        return self.texts[name]
