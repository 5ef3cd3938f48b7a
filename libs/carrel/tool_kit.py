"""For tests of tools: runs one as tool-dispatch would, in this process, at a desk with the corpora that the test gives.

    result = await run_tool(count_words, LocalDesk({"sales": "name,amount\\nann,1\\n"}), text="one two")

The desk does what the real one promises to a tool that asks for little: corpora lie in memory, in any format that Carrel takes, nothing
is shut in, pages are those that the test gives. What a tool is not granted it is refused here too.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from jsonschema import Draft202012Validator

from carrel.tool import JSON, FunctionTool, Tool, ToolFailure

MAX_RESULT_BYTES = 1024 * 1024
_CSV = "text/csv"
_LINES = (
    "(SELECT unnest(range(1, len(pieces) + 1)) AS line, unnest(pieces) AS text FROM ("
    "SELECT string_split(rtrim(content, chr(10)), chr(10)) AS pieces FROM read_text('{path}')))"
)
_FORMATS: Mapping[str, str] = {
    _CSV: "read_csv('{path}', all_varchar = true)",
    "application/vnd.apache.parquet": "read_parquet('{path}')",
    "application/x-ndjson": "read_json('{path}', format = 'newline_delimited')",
    "text/plain": _LINES,
    "text/markdown": _LINES,
}
"""The table that each format is read as."""
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


@dataclass(frozen=True, slots=True)
class LocalCorpus:
    """The content of a corpus that is no CSV."""

    media_type: str
    content: bytes


class LocalDesk:
    """A `carrel.tool.Desk` for one tool at a time."""

    tool: type[Tool] = FunctionTool
    """For which it is set up: `run_tool` says so."""

    def __init__(
        self, corpora: Mapping[str, str | LocalCorpus] | None = None, pages: Mapping[str, bytes] | None = None
    ) -> None:
        """`corpora` by name, where a text is CSV; `pages` are contents by URL."""
        self.contents = {
            name: LocalCorpus(_CSV, each.encode()) if isinstance(each, str) else each
            for name, each in (corpora or {}).items()
        }
        """The corpora as they are now: also those that the tool has stored."""
        self.pages = dict(pages or {})
        self.told: list[tuple[str, int, int]] = []
        """What the tool has told of its progress: (message, done, total)."""

    @property
    def corpora(self) -> Mapping[str, Sequence[str]]:
        own = self.contents if self.tool.reads_corpora else {}
        return {name: self._described(name)[0] for name in own}

    def remaining_seconds(self) -> float:
        return _SECONDS

    def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        self.told.append((message, done, total))

    async def query(self, sql: str, max_rows: int, offset: int = 0) -> dict[str, JSON]:
        columns, rows = self._rows(sql, [*self.corpora])
        page = rows[offset : offset + max_rows]
        more = len(rows) > offset + max_rows
        following = offset + max_rows if more else None
        return {
            "columns": columns,
            "rows": [[_shown(value) for value in row] for row in page],
            "truncated": more,
            "next": following,
        }

    async def search(self, words: str, corpora: Sequence[str], max_hits: int, offset: int = 0) -> dict[str, JSON]:
        """The rows that hold all the words, without a ranking."""
        wanted = [word.casefold() for word in re.findall(r"\w+", words)]
        if not wanted:
            raise ToolFailure("QUERY_INVALID", "There is no word to search for.")
        rows = [
            {"corpus": name, "place": place, "score": 1.0, "snippet": " | ".join(map(str, row))}
            for name in corpora or self.corpora
            for place, row in enumerate(self._rows(f'SELECT * FROM "{self._own(name)}"', [name])[1], 1)
        ]
        found = [row for row in rows if all(word in str(row["snippet"]).casefold() for word in wanted)]
        more = len(found) > offset + max_hits
        following = offset + max_hits if more else None
        page = found[offset : offset + max_hits]
        return {"hits": page, "searched": len(rows), "truncated": more, "next": following}

    async def read_corpus(self, name: str, max_bytes: int) -> bytes:
        content = self.contents[self._own(name)].content
        if len(content) > max_bytes:
            raise ToolFailure("TOO_LARGE", f"{name} has {len(content)} bytes; at most {max_bytes} can be read.")
        return content

    async def save_corpus(self, name: str, media_type: str, content: bytes, *, replace: bool) -> dict[str, JSON]:
        self._grant("corpora.write")
        if name in self.contents and not replace:
            raise ToolFailure("CORPUS_EXISTS", f"You have a corpus {name}; choose another name.")
        if media_type not in _FORMATS:
            raise ToolFailure("INVALID_ARGUMENT", f"media_type must be one of {', '.join(_FORMATS)}.")
        self.contents[name] = LocalCorpus(media_type, content)
        return {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    async def rename_corpus(self, name: str, new_name: str) -> None:
        self._grant("corpora.admin")
        if new_name in self.contents:
            raise ToolFailure("CORPUS_EXISTS", f"You have a corpus {new_name}; choose another name.")
        self.contents[new_name] = self.contents.pop(self._own(name))

    async def check_corpus(self, name: str) -> dict[str, JSON]:
        columns, types = self._described(self._own(name))
        _, [(rows,)] = self._rows(f'SELECT count(*) FROM "{name}"', [name])
        digest = hashlib.sha256(self.contents[name].content).hexdigest()
        return {"columns": columns, "types": types, "rows": rows, "sha256": digest}

    async def delete_corpus(self, name: str) -> None:
        self._grant("corpora.admin")
        del self.contents[self._own(name)]

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

    def _own(self, name: str) -> str:
        if name not in self.contents:
            raise ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {name}.")
        return name

    def _described(self, name: str) -> tuple[list[str], list[str]]:
        _, rows = self._rows(f'DESCRIBE "{name}"', [name])
        return [row[0] for row in rows], [row[1] for row in rows]

    def _rows(self, sql: str, names: Sequence[str]) -> tuple[list[str], list[tuple[JSON, ...]]]:
        """What a statement over these corpora returns: its columns and all its rows."""
        with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
            try:
                for number, name in enumerate(names):
                    path = Path(folder) / str(number)
                    path.write_bytes(self.contents[name].content)
                    table = _FORMATS[self.contents[name].media_type].format(path=path)
                    database.execute(f'CREATE VIEW "{name}" AS SELECT * FROM {table}')
                cursor = database.execute(sql)
                return [name for name, *_ in cursor.description or []], cursor.fetchall()
            except duckdb.Error as error:
                raise ToolFailure("SQL_ERROR", str(error).partition("\n")[0]) from None


def _shown(value: JSON) -> JSON:
    """A value as JSON has it; times in ISO."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
