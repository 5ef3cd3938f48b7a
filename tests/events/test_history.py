"""The history checker catches what it is there for; and short rounds of the real thing, each repeatable by its seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.chaos.events import play
from tests.chaos.history import Entry, History, Reading, Wanted, check
from tests.chaos.replicas import Replicas, replicas

ADA, EVE = ("acme", "ada"), ("acme", "eve")


def entry(offset: int, owner: tuple[str, str] = ADA) -> Entry:
    run = f"run-{offset % 2}"
    return Entry(owner, offset, f"{owner[1]}-{offset}", run, "thread-1", "custom" if offset % 3 else "agent_thinking")


def recorded() -> History:
    """Two users with ten events each; Ada reads all of hers twice, once in two streams, and those of one run once."""
    history = History()
    for owner in (ADA, EVE):
        log = [entry(offset, owner) for offset in range(1, 11)]
        history.logs[owner] = log
        history.sent[owner] = [e.event_id for e in log]
        history.acknowledged[owner] = {e.event_id for e in log}
    log, of_run = list(history.logs[ADA]), Wanted(run_id="run-1")
    history.readings = [
        Reading("whole", ADA, Wanted(), 0, 10, list(log), to_the_end=True),
        Reading("first half", ADA, Wanted(), 0, 5, log[:5]),
        Reading("second half", ADA, Wanted(), 5, 10, log[5:], to_the_end=True),
        Reading("filtered", ADA, of_run, 0, 10, [e for e in log if of_run.fits(e)], to_the_end=True),
        Reading("eve", EVE, Wanted(), 0, 10, list(history.logs[EVE]), to_the_end=True),
    ]
    return history


def test_a_history_as_it_should_be_has_no_fault() -> None:
    assert check(recorded()) == []


def in_log(change: Callable[[list[Entry]], object]) -> Callable[[History], None]:
    def plant(history: History) -> None:
        log = list(history.logs[ADA])
        change(log)
        history.logs[ADA] = log

    return plant


def in_reading(number: int, change: Callable[[list[Entry]], object]) -> Callable[[History], None]:
    def plant(history: History) -> None:
        change(history.readings[number].received)

    return plant


def swap(entries: list[Entry]) -> None:
    entries[3], entries[4] = entries[4], entries[3]


def end_early(history: History) -> None:
    history.readings[0].position = 9
    history.readings[0].received.pop()


def swap_in_log(log: list[Entry]) -> None:
    """Two events of one run change their places; offsets stay dense."""
    log[3], log[5] = replace(log[5], offset=4), replace(log[3], offset=6)


PLANTED = {
    "a gap on a stream": (in_reading(0, lambda received: received.pop(4)), "gap"),
    "a gap on a filtered stream": (in_reading(3, lambda received: received.pop(1)), "gap"),
    "a gap where a stream was resumed": (in_reading(2, lambda received: received.pop(0)), "gap"),
    "the last event is missing": (in_reading(0, lambda received: received.pop()), "gap"),
    "a duplicate on a stream": (in_reading(0, lambda received: received.insert(4, received[4])), "duplicate"),
    "a duplicate where a stream was resumed": (
        in_reading(2, lambda received: received.insert(0, entry(5))),
        "unwanted",
    ),
    "a swap on a stream": (in_reading(0, swap), "order"),
    "a foreign event on a stream": (in_reading(0, lambda received: received.insert(4, entry(5, EVE))), "foreign"),
    "a foreign event instead of one's own": (in_reading(0, lambda r: r.__setitem__(4, entry(5, EVE))), "foreign"),
    "an event that the filter excludes": (in_reading(3, lambda received: received.insert(1, entry(2))), "unwanted"),
    "an event under another offset": (in_reading(0, lambda r: r.__setitem__(4, replace(r[4], offset=6))), "order"),
    "a stream that never reached the end": (end_early, "incomplete"),
    "an acknowledged event is not in the log": (in_log(lambda log: log.pop()), "lost"),
    "an offset is left out": (in_log(lambda log: log.pop(4)), "gap"),
    "an event twice in the log": (in_log(lambda log: log.append(replace(log[0], offset=11))), "duplicate"),
    "an event that nobody sent": (in_log(lambda log: log.append(replace(entry(11), event_id="x"))), "invented"),
    "a foreign event in the log": (in_log(lambda log: log.append(replace(entry(11, EVE)))), "foreign"),
    "a run's events in another order": (in_log(swap_in_log), "order"),
}


@pytest.mark.parametrize(("plant", "kind"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_caught(plant: Callable[[History], None], kind: str) -> None:
    history = recorded()
    plant(history)
    assert kind in {fault.kind for fault in check(history)}


def test_an_append_without_an_answer_may_have_happened_or_not() -> None:
    history = recorded()
    history.sent[ADA] += ["maybe", "ada-11"]
    assert check(history) == []
    history.logs[ADA] = [*history.logs[ADA], entry(11)]
    history.readings = []
    assert check(history) == []


@pytest_asyncio.fixture(scope="module")
async def two_replicas(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replicas]:
    async with replicas(tmp_path_factory.mktemp("chaos") / "data") as running:
        yield running


@pytest.mark.parametrize("seed", ["test-0", "test-1", "test-10"])
async def test_every_reader_gets_every_event_once_and_in_order_whatever_breaks(
    two_replicas: Replicas, seed: str
) -> None:
    counts = Counter[str]()
    assert await play(two_replicas, seed, counts) == []
    assert counts["deliveries"] > 0
