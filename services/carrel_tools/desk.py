"""The desk of one tool call: the corpora of one user, a sandbox, the time that is left. It knows no session and no context bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.pool import Outcome, Usage
from carrel_tools.corpora import CorpusOperations
from carrel_tools.corpus_check import CorpusCheck
from carrel_tools.domain import Corpus, Progress, sentence
from carrel_tools.formats import SUFFIXES
from carrel_tools.sandbox.sandbox import Sandbox
from carrel_tools.statements import needed
from carrel_tools.tool import JSON, Tool, ToolFailure
from carrel_tools.uploads import MAX_CHUNK_BYTES, Announced
from carrel_tools.web import FetchRefused, Web

_QUERY = "carrel_tools.sandbox.querying:query"
_SEARCH = "carrel_tools.sandbox.searching:search"
_MAX_FILES = 200
_SHOWN = 20
_MOST_STEPS = 2**63
_REASONS = {"sql": "SQL_ERROR", "memory": "SQL_MEMORY", "size": "TOO_LARGE", "words": "QUERY_INVALID"}
_ENDS = {
    "time": ("SANDBOX_TIME", "It took longer than it may; ask for less."),
    "memory": ("SANDBOX_MEMORY", "It needs more memory than it may use."),
    "disk": ("SANDBOX_DISK", "It wrote more than it may."),
    "flood": ("TOO_LARGE", "It returned more than it may; ask for less."),
}


class UserDesk:
    """A `tool.Desk`, for one tool and one call of one user. `usage` sums what its sandboxed work used."""

    def __init__(
        self, user: UserContext, call_id: str, tool: Tool, own: Mapping[str, Corpus], seconds: float, desks: Desks
    ) -> None:
        self.usage = Usage()
        self.on_progress: Callable[[Progress], None] | None = None
        self._user = user
        self._call_id = call_id
        self._tool = tool
        self._own = own
        self._expire_time = asyncio.get_running_loop().time() + seconds
        self._desks = desks

    @property
    def corpora(self) -> Mapping[str, Sequence[str]]:
        return {name: corpus.columns for name, corpus in self._own.items()}

    def remaining_seconds(self) -> float:
        return max(0.0, self._expire_time - asyncio.get_running_loop().time())

    def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(sentence(message), *(min(max(0, n), _MOST_STEPS) for n in (done, total))))

    async def query(self, sql: str, max_rows: int, offset: int = 0) -> dict[str, JSON]:
        named, seen = needed(sql, self._own)
        request = {"sql": sql, "offset": offset, "max_rows": max_rows, "corpora": self._described(named, seen)}
        return await self._ask(_QUERY, request, named)

    async def search(self, words: str, corpora: Sequence[str], max_hits: int, offset: int = 0) -> dict[str, JSON]:
        named = [self._corpus(name).name for name in corpora] or list(self._own)
        request = {"words": words, "offset": offset, "max_hits": max_hits, "corpora": self._described(named, ())}
        return await self._ask(_SEARCH, request, named)

    async def read_corpus(self, name: str, max_bytes: int) -> bytes:
        corpus = self._corpus(name)
        if corpus.size_bytes > max_bytes:
            raise ToolFailure(
                "TOO_LARGE", f"{name[:128]} has {corpus.size_bytes} bytes; at most {max_bytes} can be read."
            )
        with _as_failures(self):
            pieces = self._desks.corpora.read(self._user, self._call_id, corpus)
            return b"".join([piece async for piece in pieces])

    async def save_corpus(self, name: str, media_type: str, content: bytes, *, replace: bool) -> dict[str, JSON]:
        self._grant("corpora.write")
        with _as_failures(self):
            if not replace and await self._exists(name):
                raise ToolFailure(
                    "CORPUS_EXISTS", f"You have a corpus {name[:128]}; choose another name, or update it."
                )
            announced = Announced(name, media_type)
            corpus = await self._desks.corpora.upload(self._user, self._call_id, announced, _pieces(content))
        return {"name": corpus.name, "size_bytes": corpus.size_bytes, "sha256": corpus.sha256}

    async def rename_corpus(self, name: str, new_name: str) -> None:
        self._grant("corpora.admin")
        with _as_failures(self):
            if await self._exists(new_name):
                raise ToolFailure("CORPUS_EXISTS", f"You have a corpus {new_name[:128]}; choose another name.")
            await self._desks.corpora.rename(self._user, self._call_id, name, new_name)

    async def check_corpus(self, name: str) -> dict[str, JSON]:
        corpus = self._corpus(name)
        with _as_failures(self):
            async with (
                self._desks.check.turn(self._user.owner, corpus.size_bytes) as turn,
                self._desks.corpora.opened(self._user, self._call_id, [corpus]) as files,
            ):
                found = await turn.check(corpus.media_type, files[0])
        self._used(found.usage)
        return {"columns": [*found.columns], "types": [*found.types], "rows": found.rows, "sha256": corpus.sha256}

    async def delete_corpus(self, name: str) -> None:
        self._grant("corpora.admin")
        with _as_failures(self):
            await self._desks.corpora.delete(self._user, self._call_id, name)

    async def run_sandboxed(
        self,
        call: str,
        request: Mapping[str, JSON],
        *,
        corpora: Sequence[str] = (),
        memory_mb: int = 256,
        disk_mb: int = 0,
    ) -> dict[str, JSON]:
        if not self._tool.sandbox_level:
            raise ToolFailure("NOT_GRANTED", "This tool states no level of the sandbox, and so runs nothing in it.")
        given = {**request, "names": [f"{name}.{SUFFIXES[self._corpus(name).media_type]}" for name in corpora]}
        outcome = await self._sandboxed(call, given, corpora, memory_mb, disk_mb)
        if outcome.answer is not None:
            return outcome.answer
        if outcome.end in _ENDS:
            raise ToolFailure(*_ENDS[outcome.end])
        raise ToolFailure("SANDBOX_CRASHED", f"Its process ended before it answered{_by(outcome.signal)}.")

    async def fetch(self, url: str, max_bytes: int) -> dict[str, JSON]:
        if not self._tool.network:
            raise ToolFailure("NOT_GRANTED", "This tool does not say that it uses the network.")
        try:
            page = await self._desks.web.fetch(url, max_bytes, self.remaining_seconds())
        except FetchRefused as refused:
            raise ToolFailure(refused.reason, refused.message) from None
        media_type = page.headers.get("content-type", "")
        return {"state": page.state, "url": page.url, "media_type": media_type, "content": page.content}

    async def _ask(self, call: str, request: dict[str, Any], corpora: Sequence[str]) -> dict[str, JSON]:
        """Asks a call that reads corpora and says itself what it refuses."""
        memory_mb = self._desks.sandbox.memory_mb
        given = {**request, "memory_mb": memory_mb}
        # DuckDB keeps to its own limit but for what functions allocate: the process may have more, and dies of still more.
        outcome = await self._sandboxed(call, given, corpora, 3 * memory_mb, 0)
        if outcome.end == "time":
            raise ToolFailure(*_ENDS["time"])
        answer = outcome.answer or {"refused": ["memory", "It needs more memory than it may use."]}
        if refused := answer.get("refused"):
            kind, message = refused
            raise self.no_corpus(message) if kind == "table" else ToolFailure(_REASONS[kind], message)
        result: dict[str, JSON] = answer["result"]
        return result

    async def _sandboxed(
        self, call: str, request: Mapping[str, Any], corpora: Sequence[str], memory_mb: int, disk_mb: int
    ) -> Outcome:
        standing = self._desks.sandbox.standing
        if self._tool.sandbox_level > standing.level:
            raise ToolFailure(
                "SANDBOX_TOO_WEAK",
                f"{self._tool.name} needs level {self._tool.sandbox_level} of the sandbox; this machine has {standing}.",
            )
        if len(corpora) > _MAX_FILES:
            raise ToolFailure("TOO_LARGE", f"A call can read {_MAX_FILES} corpora and this one names {len(corpora)}.")
        own = [self._corpus(name) for name in corpora]
        bounds = Bounds(max(0.1, self.remaining_seconds()), memory_mb, disk_mb)
        size = sum(corpus.size_bytes for corpus in own)
        with _as_failures(self):
            async with (
                self._desks.sandbox.turn(self._user.owner, memory_mb, size) as pool,
                self._desks.corpora.opened(self._user, self._call_id, own) as files,
            ):
                return await self._measured(pool.run(call, request, bounds, files))

    async def _measured(self, work: Awaitable[Outcome]) -> Outcome:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            outcome = await work
        except asyncio.CancelledError:
            # Nobody waits to hear what it used; it has one thread, so that was no more than this. To leave early is not free.
            self._used(Usage(cpu_seconds=loop.time() - begin))
            raise
        self._used(outcome.usage)
        return outcome

    def _described(self, given: Sequence[str], seen: Sequence[str]) -> dict[str, Any]:
        files = {name: number for number, name in enumerate(given)}
        return {
            name: {
                "file": files.get(name),
                "media_type": self._own[name].media_type,
                "columns": self._own[name].columns,
                "types": self._own[name].types,
            }
            for name in (*given, *seen)
        }

    def _used(self, usage: Usage) -> None:
        cpu = self.usage.cpu_seconds + usage.cpu_seconds
        self.usage = Usage(cpu, max(self.usage.memory_bytes, usage.memory_bytes))

    def _grant(self, scope: str) -> None:
        if scope not in self._tool.scopes:
            raise ToolFailure("NOT_GRANTED", f"This tool does not demand the scope {scope}, and so may not do this.")

    def _corpus(self, name: str) -> Corpus:
        if name not in self._own:
            raise self.no_corpus(name)
        return self._own[name]

    async def _exists(self, name: str) -> bool:
        try:
            await self._desks.corpora.get(self._user, self._call_id, name)
        except CarrelError as error:
            if error.kind is Kind.NOT_FOUND:
                return False
            raise
        return True

    def no_corpus(self, name: str) -> ToolFailure:
        """What is said of a name that is no corpus of this user, be it another's or nobody's."""
        if not self._own:
            return ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {name[:128]}, nor any other; upload one first.")
        names = ", ".join(list(self._own)[:_SHOWN])
        more = f" and {len(self._own) - _SHOWN} more" if len(self._own) > _SHOWN else ""
        return ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {name[:128]}; you have: {names}{more}.")


@contextmanager
def _as_failures(desk: UserDesk) -> Iterator[None]:
    """What operations on corpora refuse becomes the tool's own failure; what is nobody's fault stays what it is."""
    try:
        yield
    except CarrelError as error:
        match error.kind:
            case Kind.NOT_FOUND:
                raise desk.no_corpus(error.metadata.get("name", "")) from None
            case Kind.RACED:
                message = "A corpus was replaced or deleted while it was read; ask again in a new step."
                raise ToolFailure("CORPUS_CHANGED", message) from None
            case Kind.INVALID | Kind.OVER_LIMIT:
                raise ToolFailure(error.reason, error.message) from None
        raise


def _by(signal_number: int) -> str:
    return f", by signal {signal_number}" if signal_number else ""


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), MAX_CHUNK_BYTES):
        yield content[begin : begin + MAX_CHUNK_BYTES]


class Desks:
    """Sets up a desk for each call."""

    def __init__(self, corpora: CorpusOperations, check: CorpusCheck, sandbox: Sandbox, web: Web) -> None:
        self.corpora = corpora
        self.check = check
        self.sandbox = sandbox
        self.web = web

    async def set_up(self, user: UserContext, call_id: str, tool: Tool, seconds: float) -> UserDesk:
        """What the tool is given: corpora if it reads them, what its scopes say, and nothing else."""
        corpora = await self.corpora.every(user, call_id) if tool.reads_corpora else []
        return UserDesk(user, call_id, tool, {corpus.name: corpus for corpus in corpora}, seconds, self)
