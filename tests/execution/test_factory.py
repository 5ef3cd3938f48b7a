"""The registry and the instances of agents: what is refused at the start, what an agent leaves, and what is found on it at its end."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from types import MappingProxyType
from typing import Any

import pytest

from carrel.agent import JSON, Agent, AgentError, RunContext
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import UserContext
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.agents.in_loop import guard_loop
from carrel_execution.agents.isolation.host import ProcessHost
from carrel_execution.agents.registry import AgentRegistry, load_registry
from carrel_execution.agents.watchdog import agents_named_in
from tests.support.agents import Corpora, LocalRun


class Good(Agent):
    """A usable agent that does what a test hands it."""

    name = "good"

    async def run(self, context: Any, input: Any) -> JSON:
        return await input["work"](self, context)


class Abstract(Agent):
    """No agent yet."""

    name = "abstract"


class Nameless(Good):
    """Its name is a placeholder."""

    name = "registry"


class Twin(Good):
    """Has the name of another."""


class Remembering(Good):
    """All users would share what it remembers."""

    name = "remembering"
    seen: dict[str, str] = {}  # noqa: RUF012


class Wired(Good):
    """Has a connection on its class."""

    name = "wired"
    runs = RunContext(LocalRun("good", Corpora({})))


class Wandering(Good):
    """Runs nowhere that there is."""

    name = "wandering"
    isolation: Any = "thread"


class Boundless(Good):
    """Would have no memory at all."""

    name = "boundless"
    memory_mb = 0


class Misdescribed(Good):
    """Its schema is none."""

    name = "misdescribed"
    input_schema = MappingProxyType({"type": "number of things"})


class Described(Good):
    """Says all that a class can say."""

    name = "described"
    version = "3"
    isolation = "process"
    input_schema = MappingProxyType({"type": "object"})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ([Good()], "register the class"),
        ([int], "is not an agent class"),
        ([Abstract], "no run method"),
        ([Nameless], "no usable name"),
        ([Good, Twin], "Two agents are named good"),
        ([Remembering], "seen (dict)"),
        ([Wired], "runs (RunContext)"),
        ([Wandering], "'thread'"),
        ([Boundless], "memory_mb of 0"),
        ([Misdescribed], "no JSON Schema"),
    ],
)
def test_a_registry_takes_usable_classes_only(wrong: list[type[Agent]], why: str) -> None:
    with pytest.raises(CarrelError) as refused:
        AgentRegistry(wrong)
    assert why in refused.value.message


def test_a_registry_says_what_the_classes_say() -> None:
    registry = AgentRegistry([Described, Good])
    assert (registry.version("described"), registry.isolation("described")) == ("3", "process")
    assert (registry.version("good"), registry.isolation("good"), registry.input_schema("good")) == ("", "loop", None)
    assert registry.input_schema("described") == {"type": "object"}


def test_neither_the_registry_nor_its_classes_change_after_the_start() -> None:
    registry = load_registry(["tests.support.agents_under_test"])
    assert {"supervisor", "sleeper"} <= set(registry.names)
    with pytest.raises(TypeError):
        registry.classes["good"] = Good  # type: ignore[index]
    sleeper = registry.classes["sleeper"]
    with pytest.raises(AgentError) as refused:
        sleeper.seen = {}  # type: ignore[attr-defined]
    assert refused.value.reason == "CLASS_FROZEN"
    with pytest.raises(AgentError):
        del sleeper.description


def test_a_module_that_cannot_be_imported_is_skipped_and_says_why(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "agents_with_a_fault.py").write_text("raise ZeroDivisionError('in an author s module')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    registry = load_registry(["agents_with_a_fault", "tests.support.no_such_module", "tests.support.agents_under_test"])
    assert "sleeper" in registry.names
    assert set(registry.skipped) == {"agents_with_a_fault", "tests.support.no_such_module"}
    assert "ZeroDivisionError: in an author s module" in registry.skipped["agents_with_a_fault"]


def test_a_module_without_agents_is_refused() -> None:
    with pytest.raises(CarrelError):
        load_registry(["tests.support.expect"])


@pytest.fixture
def factory() -> InstanceFactory:
    return InstanceFactory(AgentRegistry([Good]))


async def perform(factory: InstanceFactory, work: Any) -> JSON:
    async with factory.instance("good") as agent:
        return await agent.run(LocalRun("good", Corpora({})), {"work": work})


async def test_an_instance_is_new_each_time_and_empty_afterwards(factory: InstanceFactory) -> None:
    seen: list[Agent] = []

    async def keep(agent: Agent, context: Any) -> JSON:
        assert vars(agent) == {}
        agent.secret = "a secret"  # type: ignore[attr-defined]
        seen.append(agent)
        return factory.counts.active

    assert [await perform(factory, keep) for _ in range(2)] == [1, 1]
    assert seen[0] is not seen[1] and [vars(agent) for agent in seen] == [{}, {}]
    with pytest.raises(ZeroDivisionError):
        async with factory.instance("good"):
            raise ZeroDivisionError
    assert (factory.counts.created, factory.counts.active, factory.counts.cleaned) == (3, 0, 3)


async def test_there_is_no_instance_of_an_unknown_agent(factory: InstanceFactory) -> None:
    with pytest.raises(AgentError) as refused:
        async with factory.instance("nobody"):
            pass
    assert refused.value.reason == "AGENT_NOT_FOUND" and "good" in refused.value.message


async def test_what_an_agent_has_opened_is_closed_however_it_ends() -> None:
    closed: list[str] = []

    class Opening(Good):
        name = "good"

        async def close(self) -> None:
            closed.append("closed")

    async def crash(agent: Agent, context: Any) -> JSON:
        raise ZeroDivisionError

    factory = InstanceFactory(AgentRegistry([Opening]))
    with pytest.raises(ZeroDivisionError):
        await perform(factory, crash)
    assert closed == ["closed"] and factory.counts.cleaned == 1


async def test_a_close_that_fails_is_counted_and_fails_nothing() -> None:
    class Stuck(Good):
        name = "good"

        async def close(self) -> None:
            raise ZeroDivisionError

    async def work(agent: Agent, context: Any) -> JSON:
        return "done"

    factory = InstanceFactory(AgentRegistry([Stuck]))
    assert await perform(factory, work) == "done"
    assert (factory.counts.cleaned, factory.counts.not_cleaned, factory.counts.cleanup_success_rate) == (0, 1, 0.0)


async def test_the_tasks_that_an_agent_leaves_end_with_it(factory: InstanceFactory) -> None:
    guard_loop(asyncio.get_running_loop())
    ends: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ends.append("ended")

    async def leave(agent: Agent, context: Any) -> JSON:
        agent.task = asyncio.create_task(linger())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        return "left"

    try:
        assert await perform(factory, leave) == "left"
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert ends == ["ended"]


@pytest.mark.parametrize("foreign", ["context", "identity"])
async def test_an_agent_that_holds_what_is_another_runs_fails(factory: InstanceFactory, foreign: str) -> None:
    async def hold(agent: Agent, context: Any) -> JSON:
        other = LocalRun("good", Corpora({}))
        other.run_id = "run-of-somebody-else"
        identity = UserContext("ctx", "acme", "eve", "session-7", frozenset(), frozenset(), 0.0, 1.0, "request-7")
        agent.kept = {"it": RunContext(other).tools if foreign == "context" else identity}  # type: ignore[attr-defined]
        return "held"

    with pytest.raises(AgentError) as refused:
        await perform(factory, hold)
    assert refused.value.reason == "FOREIGN_CONTEXT"


async def test_an_agent_may_hold_its_own_context(factory: InstanceFactory) -> None:
    async def hold(agent: Agent, context: Any) -> JSON:
        agent.context = context  # type: ignore[attr-defined]
        return "held"

    assert await perform(factory, hold) == "held"


@pytest.mark.parametrize("policy", ["rogue", "*"])
async def test_by_policy_an_agent_runs_in_a_process_whatever_its_class_says(policy: str) -> None:
    modules = ["tests.support.rogue_agents"]
    host = ProcessHost(modules)
    factory = InstanceFactory(load_registry(modules), host, isolated=[policy])
    try:
        assert factory.is_isolated("rogue") and factory.is_isolated("caged")
        assert factory.is_isolated("spinner") == (policy == "*")
        async with factory.instance("rogue") as agent:
            result = await agent.run(LocalRun("rogue", Corpora({})), {"does": "nothing"})
        assert result["process"] != os.getpid()
    finally:
        await host.close()


@pytest.mark.parametrize(
    ("line", "named"), [("run", {"good", "twin", "described"}), ("sdk", set()), ("elsewhere", set())]
)
def test_an_agent_is_known_again_by_its_own_lines_on_a_stack(line: str, named: set[str]) -> None:
    class Heir(Good):
        name = "twin"

    inside = inspect.getsourcelines(Good)[1] + 3
    of_sdk = inspect.getsourcelines(Agent.perform)[1] + 1
    place = {"run": (__file__, inside), "sdk": (inspect.getfile(Agent), of_sdk), "elsewhere": (__file__, 1)}[line]
    word = f'Current thread 0x7 (most recent call first):\n  File "{place[0]}", line {place[1]} in somewhere\n'
    assert agents_named_in(word, [Good, Heir, Described]) == named
