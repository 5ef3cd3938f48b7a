"""The cross-user matrix: with the ids of somebody else's things every tool and every RPC answers as for things that never were.

All tools that are loaded are walked: one that takes the name of something and is not in the table fails the test.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from carrel.api.tools.v1 import tool_pb2
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.rpc.status import from_rpc_error
from carrel_chassis.sandbox.level import Level, probe
from carrel_tools.consent import digest_of
from carrel_tools.tool_system import load_classes
from tests.tools.administration import ToolAdministrator, consent
from tests.tools.conftest import CSV, Desk

SCOPES = ("tools.use", "corpora.read", "corpora.write", "corpora.admin")

HIDES_NAMES = os.geteuid() == 0 or probe().level >= Level.NAMESPACES
"""Landlock refuses to open a file and not to ask whether it is there. A service that is root has the sandbox run as nobody, to whom the
folders are closed; bubblewrap shows none. `docs/security.md` says so."""
ASK_FOR_A_PATH: list[Callable[[str], dict[str, Any]]] = [
    lambda name: {"code": f"import os; os.path.exists({name!r})"},
    lambda name: {"code": f"import os; os.listdir({name!r})"},
    lambda name: {"code": f"open({name!r}, 'rb').read()"},
]

BY_NAME: dict[str, list[Callable[[str], dict[str, Any]]]] = {
    "sql_query": [
        lambda name: {"sql": f'SELECT * FROM "{name}"'},
        lambda name: {"sql": f"SELECT * FROM '{name}'"},
        lambda name: {"sql": f"SELECT * FROM read_csv('{name}')"},
        lambda name: {"sql": f"SELECT * FROM read_text('{name}')"},
        lambda name: {"sql": f"SELECT count(*) FROM duckdb_views() WHERE view_name = '{name}'"},
    ],
    "statistics": [lambda name: {"corpus": name, "column": "amount"}],
    "corpus_delete": [lambda name: {"name": name}],
    "corpus_admin": [
        lambda name: {"action": "export", "name": name},
        lambda name: {"action": "validate", "name": name},
        lambda name: {"action": "delete", "name": name},
        lambda name: {"action": "update", "name": name, "new_name": "mine"},
        # The last: whoever asks has a corpus of that name afterwards, whoever else has one.
        lambda name: {"action": "create", "name": name, "media_type": "text/csv", "text": CSV.decode()},
    ],
    "corpus_search": [
        lambda name: {"words": "ann", "corpora": [name]},
        lambda name: {"words": name},
    ],
    "python": [
        lambda name: {"code": "1", "corpora": [name]},
        *(ASK_FOR_A_PATH if HIDES_NAMES else []),
    ],
    "http_fetch": [lambda name: {"url": f"file://{name}"}, lambda name: {"url": f"http://{name}/"}],
}
"""What each tool is asked, by the name of something of a user."""
NAMELESS = {"echo", "sleep", "count", "post", "crash", "huge", "not_json", "dice", "walk", "stubborn"}
"""Tools that are told the name of nothing that a user owns."""

TOOLS = [each.name for each in load_classes("tests.support.tools")]


def test_every_tool_is_walked():
    assert set(TOOLS) == BY_NAME.keys() | NAMELESS


async def answer(call: Awaitable[Any], name: str) -> Any:
    """What the caller sees, with the name that was asked for taken out."""
    try:
        message = await call
    except grpc.aio.AioRpcError as error:
        seen = from_rpc_error(error)
        parts = [error.code().name, seen.reason, seen.message, json.dumps(seen.metadata, sort_keys=True)]
    else:
        parts = [getattr(message, "result_json", None) or str(message)]
    # A name that never was has as many characters: places in a text stay where they are, also where it is cut.
    return [_without(name, part) for part in parts]


def _without(name: str, part: str) -> str:
    """The text without the name, or without as much of it as the text has."""
    if name in part:
        return part.replace(name, "…")
    begin = next((name[:length] for length in range(len(name) - 1, 15, -1) if name[:length] in part), None)
    return part if begin is None else part.replace(begin, "…")


async def consented(desk: Desk, tool: str, arguments: dict[str, Any]) -> Any:
    """A call to which the caller has consented: those that need it are not to end with the question."""
    approval = consent(desk, digest_of(tool, arguments))
    return await desk.execute(tool, secrets.token_hex(8), scopes=SCOPES, approval=approval, **arguments)


def never(name: str) -> str:
    """A name of the same form that nothing ever had."""
    return name[:-8] + secrets.token_hex(4)


async def names_of(desk: Desk) -> list[str]:
    """All that names a corpus of this person: its name, its id, its file."""
    name = f"corpus-{secrets.token_hex(8)}"
    corpus = await desk.upload(name, CSV)
    [path] = [file for file in desk.files() if corpus.corpus_id in file]
    return [name, corpus.corpus_id, path]


@pytest.mark.parametrize("tool", sorted(BY_NAME))
async def test_a_tool_told_of_somebody_elses_corpus_answers_as_of_none(desk: Desk, other: Desk, tool: str):
    await other.upload("own", CSV)
    for name in await names_of(desk):
        for ask in BY_NAME[tool]:
            answers = []
            for asked in (name, never(name)):
                call = consented(other, tool, ask(asked))
                answers.append(await answer(call, asked))
            assert answers[0] == answers[1], ask(name)
    assert len(await desk.names()) == 1


async def test_a_path_that_is_known_whole_opens_nothing(desk: Desk, other: Desk):
    """Whatever code may learn of the names of files."""
    path = (await names_of(desk))[-1]
    for ask in ASK_FOR_A_PATH[1:]:
        told = json.loads((await other.execute("python", secrets.token_hex(8), scopes=SCOPES, **ask(path))).result_json)
        assert (
            told["error"]["type"] in ("PermissionError", "FileNotFoundError", "NotADirectoryError")
            and told["value"] is None
        )


async def test_the_owner_is_told_otherwise(desk: Desk):
    """The matrix would be empty if the names were wrong."""
    name = (await names_of(desk))[0]
    for tool, ask in (("sql_query", BY_NAME["sql_query"][0]), ("statistics", BY_NAME["statistics"][0])):
        call = desk.execute(tool, secrets.token_hex(8), scopes=SCOPES, **ask(name))
        assert (await answer(call, name))[0].startswith("{")


async def test_an_rpc_told_of_somebody_elses_things_answers_as_of_none(desk: Desk, other: Desk):
    await desk.execute("echo", text="a")
    decisions = (await ToolAdministrator.of(other.system, other.person.tenant_id)).decisions
    metadata = other.person.metadata
    calls: dict[str, Callable[[str], Awaitable[Any]]] = {
        "GetCorpus": lambda name: other.corpora.GetCorpus(pb.GetCorpusRequest(name=name), metadata=metadata),
        "DeleteCorpus": lambda name: other.corpora.DeleteCorpus(pb.DeleteCorpusRequest(name=name), metadata=metadata),
        "ListToolCalls": lambda name: other.tools.ListToolCalls(
            pb.ListToolCallsRequest(run_id=name), metadata=metadata
        ),
        "ListTenantToolDecisions": lambda name: decisions(user_id=name),
    }
    corpus_name, corpus_id, _ = await names_of(desk)
    things = {
        "GetCorpus": (corpus_name, corpus_id),
        "DeleteCorpus": (corpus_name, corpus_id),
        "ListToolCalls": (desk.run_id,),
        "ListTenantToolDecisions": (desk.person.user_id,),
    }
    for rpc, call in calls.items():
        for name in things[rpc]:
            absent = never(name)
            assert await answer(call(name), name) == await answer(call(absent), absent), rpc
    assert await desk.names() == [corpus_name]


async def test_the_run_and_step_of_somebody_else_are_a_step_of_ones_own(desk: Desk, other: Desk):
    first = await desk.execute("count", "7", key=secrets.token_hex(8))
    strangers_run = other.run_id
    answers = []
    for run_id in (desk.run_id, strangers_run):
        other.run_id = run_id
        mine = await other.execute("echo", "7", text="mine")
        answers.append((mine.result_json, mine.replayed))
    assert answers[0] == answers[1] == ('{"text":"mine"}', False) and not first.replayed
    [line] = await desk.calls()
    assert (line.tool, line.outcome) == ("count", tool_pb2.TOOL_OUTCOME_SUCCEEDED)


async def test_a_user_of_the_same_tenant_is_another_user(desk: Desk):
    """All of the above again where only the user differs: the tenant is no fence there."""
    [name, corpus_id, path] = await names_of(desk)
    for tool, asks in BY_NAME.items():
        colleague = Desk(desk.system, await desk.system.person(desk.person.tenant_id), desk.peer)
        for ask in asks:
            for each in (name, corpus_id, path):
                absent = never(each)
                calls = [answer(consented(colleague, tool, ask(asked)), asked) for asked in (each, absent)]
                assert await calls[0] == await calls[1], (tool, ask(each))
    assert await desk.names() == [name]
