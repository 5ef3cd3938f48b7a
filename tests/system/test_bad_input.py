"""Bad input from end to end: one clear sentence that says what to do, the right reason, and nothing lost or disturbed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from carrel import Client
from carrel.api.runs.v1.run_pb2 import Run, RunState
from carrel.errors import CarrelClientError
from tests.support.system import Person, System

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = HEADER + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:16:46.6805900,100,6\n"
GIB = 1024**3


@pytest_asyncio.fixture
async def client(system: System, ada: Person) -> AsyncIterator[Client]:
    async with Client(system.addresses["gateway"], ada.token) as client:
        yield client


async def finished(client: Client, agent: str, **arguments: object) -> Run:
    """The run after its end; it ended with one final event."""
    run = await client.start_run(agent, arguments)
    finals = [event async for event in client.watch_run(run.run_id) if event.final]
    assert len(finals) == 1
    return await client.get_run(run.run_id)


def is_a_sentence(message: str) -> bool:
    """For a person: it begins with a capital letter or a name, ends with a full stop, and shows no trace of the machine's inside."""
    return message.endswith(".") and 15 < len(message) < 600 and "Traceback" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("trace", "reason", "says"),
    [
        ("TIMESTAMP,Tokens\n2023-11-16 18:15:46,3\n", "TRACE_COLUMNS_MISSING", "ContextTokens"),
        (HEADER, "TRACE_EMPTY", "row"),
        (HEADER + "2023-11-16 18:15:46,many,few\n", "TRACE_UNREADABLE", "row"),
    ],
    ids=["missing columns", "no rows", "non-numeric tokens"],
)
async def test_a_trace_that_cannot_be_read_ends_its_run_with_what_is_missing(
    client: Client, trace: str, reason: str, says: str
) -> None:
    await client.upload_corpus("trace", trace.encode())
    run = await finished(client, "supervisor", question="What does it cost?", corpus="trace")
    assert run.state == RunState.RUN_STATE_FAILED
    assert run.error.reason == reason, run.error.message
    assert says.lower() in run.error.message.lower() and is_a_sentence(run.error.message), run.error.message
    # The desk is as good as before: the next trace under the same name works.
    await client.upload_corpus("trace", GOOD.encode())
    run = await finished(client, "supervisor", question="What does it cost?", corpus="trace")
    assert run.state == RunState.RUN_STATE_SUCCEEDED, run.error.message


@pytest.mark.parametrize(
    "content",
    [b"", HEADER.encode("utf-16"), b"a,b\n\xff\xfe,1\n", b"a,b\n1,\x00\n", b'a,b\n"1,2\n'],
    ids=["empty", "utf-16", "latin", "nul", "open quote"],
)
async def test_a_file_that_is_no_utf8_csv_is_refused_at_the_upload(client: Client, content: bytes) -> None:
    await client.upload_corpus("trace", GOOD.encode())
    with pytest.raises(CarrelClientError) as refusal:
        await client.upload_corpus("trace", content)
    assert (refusal.value.code, refusal.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CORPUS_INVALID")
    assert is_a_sentence(refusal.value.message), refusal.value.message
    [corpus] = [corpus async for corpus in client.list_corpora()]
    assert corpus.size_bytes == len(GOOD), "the file that was there is still there"


async def test_a_file_of_a_gigabyte_is_refused_when_the_limit_is_passed(client: Client, tmp_path: Path) -> None:
    line = b"2023-11-16 18:15:46.6805900,374,44\n"
    block = line * (16 * 1024 * 1024 // len(line))
    with (tmp_path / "huge.csv").open("wb") as file:
        file.write(HEADER.encode())
        for _ in range(GIB // len(block) + 1):
            file.write(block)
    with pytest.raises(CarrelClientError) as refusal:
        await client.upload_corpus("trace", tmp_path / "huge.csv")
    (tmp_path / "huge.csv").unlink()
    assert (refusal.value.code, refusal.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert is_a_sentence(refusal.value.message), refusal.value.message
    assert [corpus async for corpus in client.list_corpora()] == []


async def test_what_does_not_exist_is_not_found_by_name(client: Client) -> None:
    with pytest.raises(CarrelClientError) as refusal:
        await client.start_run("no_such_agent", {})
    assert refusal.value.reason == "AGENT_NOT_FOUND"
    assert "supervisor" in refusal.value.message, "it says which there are"
    with pytest.raises(CarrelClientError) as refusal:
        await client.get_run("run-that-never-was")
    assert refusal.value.reason == "RUN_NOT_FOUND" and is_a_sentence(refusal.value.message)
    with pytest.raises(CarrelClientError) as refusal:
        await client.delete_corpus("nothing")
    assert refusal.value.reason == "CORPUS_NOT_FOUND" and is_a_sentence(refusal.value.message)
    run = await finished(client, "supervisor", question="What does it cost?", corpus="nothing")
    assert (run.state, run.error.reason) == (RunState.RUN_STATE_FAILED, "CORPUS_NOT_FOUND")
    assert is_a_sentence(run.error.message), run.error.message


async def test_an_unknown_tool_is_told_to_the_agent(client: Client) -> None:
    run = await finished(client, "caller", tool="no_such_tool")
    assert (run.state, run.error.reason) == (RunState.RUN_STATE_FAILED, "TOOL_NOT_FOUND"), run.error.message
    hidden = await finished(client, "caller", tool="corpus_delete")
    assert hidden.error.message.replace("corpus_delete", "X") == run.error.message.replace("no_such_tool", "X")


async def test_an_empty_question_and_one_of_a_megabyte_are_refused(client: Client) -> None:
    await client.upload_corpus("trace", GOOD.encode())
    run = await finished(client, "supervisor", question="", corpus="trace")
    assert (run.state, run.error.reason) == (RunState.RUN_STATE_FAILED, "INVALID_INPUT"), run.error.message
    assert "question" in run.error.message
    with pytest.raises(CarrelClientError) as refusal:
        await client.start_run("supervisor", {"question": "x" * 1_000_000, "corpus": "trace"})
    assert refusal.value.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert is_a_sentence(refusal.value.message), refusal.value.message


async def test_random_bytes_for_a_request_are_a_malformed_request(system: System, ada: Person) -> None:
    chance = random.Random(7)
    channel = grpc.aio.insecure_channel(system.addresses["gateway"])
    try:
        for _ in range(50):
            noise = b"\xff" + chance.randbytes(chance.randrange(200))
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await channel.unary_unary("/carrel.api.gateway.v1.GatewayService/StartRun")(
                    noise, metadata=ada.authorization, timeout=10
                )
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    finally:
        await channel.close()
