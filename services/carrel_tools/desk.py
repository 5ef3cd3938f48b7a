"""The desk of one tool call: the files of one user and the time that is left. It knows no session and no context bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_tools.corpora import CorpusOperations
from carrel_tools.corpus_files import CorpusFiles
from carrel_tools.sandbox.sandbox import Sandbox
from carrel_tools.tool import JSON, Tool, ToolFailure

Owner = tuple[str, str]

_REASONS = {"sql": "SQL_ERROR", "file": "CORPUS_CHANGED", "memory": "SQL_MEMORY", "size": "TOO_LARGE"}
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class UserDesk:
    """A `tool.Desk`."""

    owner: Owner = field(repr=False)
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """By the name of the corpus: {"path", "columns"}; what the query process is told, and the tool is not."""
    expire_time: float
    """By the event loop's clock."""
    sandbox: Sandbox = field(repr=False)
    delete: Callable[[str], Awaitable[None]] | None = field(default=None, repr=False)

    @property
    def corpora(self) -> Mapping[str, Sequence[str]]:
        return {name: file["columns"] for name, file in self.files.items()}

    def remaining_seconds(self) -> float:
        return max(0.0, self.expire_time - asyncio.get_running_loop().time())

    async def query(self, sql: str, max_rows: int) -> dict[str, JSON]:
        request = {"do": "query", "sql": sql, "max_rows": max_rows, "corpora": dict(self.files)}
        answer = await self.sandbox.ask(self.owner, request, self.remaining_seconds())
        if refused := answer.get("refused"):
            kind, message = refused
            raise self._no_corpus(message) if kind == "table" else ToolFailure(_REASONS[kind], message)
        result: dict[str, JSON] = answer["result"]
        return result

    async def delete_corpus(self, name: str) -> None:
        if self.delete is None:
            raise ToolFailure("NOT_GRANTED", "This tool may not delete corpora.")
        try:
            await self.delete(name)
        except CarrelError as error:
            if error.kind not in (Kind.NOT_FOUND, Kind.INVALID):
                raise
            raise self._no_corpus(name) from None

    def _no_corpus(self, name: str) -> ToolFailure:
        if not self.files:
            return ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {name[:128]}, nor any other; upload one first.")
        names = ", ".join(list(self.files)[:_SHOWN])
        more = f" and {len(self.files) - _SHOWN} more" if len(self.files) > _SHOWN else ""
        return ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {name[:128]}; you have: {names}{more}.")


class Desks:
    """Sets up a desk for each call."""

    def __init__(self, corpora: CorpusOperations, files: CorpusFiles, sandbox: Sandbox) -> None:
        self._corpora = corpora
        self._files = files
        self._sandbox = sandbox

    async def set_up(self, user: UserContext, call_id: str, tool: Tool, seconds: float) -> UserDesk:
        """What the tool is given: files if it reads them, deletion if its scopes say so, and nothing else."""
        corpora = await self._corpora.every(user, call_id) if tool.reads_corpora else []
        files = {
            corpus.name: {"path": str(self._files.path(user, corpus.corpus_id)), "columns": corpus.columns}
            for corpus in corpora
        }

        async def delete(name: str) -> None:
            await self._corpora.delete(user, call_id, name)

        granted = delete if "corpora.admin" in tool.scopes else None
        return UserDesk(user.owner, files, asyncio.get_running_loop().time() + seconds, self._sandbox, granted)
