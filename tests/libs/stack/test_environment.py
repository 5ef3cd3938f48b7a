"""What the services of a started system are told by the environment of whoever starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from carrel_chassis.stack.layout import PORT_OFFSETS, SERVICES, Surroundings


def environments(**extra: str) -> dict[str, dict[str, str]]:
    urls = {role: f"postgresql://{role}@host/carrel" for each in SERVICES for role in each.database_roles.values()}
    surroundings = Surroundings(
        dict.fromkeys(PORT_OFFSETS, 1), Path("keys"), Path("corpora"), urls, "nats://host", None, extra
    )
    return {each.name: surroundings.environment(each) for each in SERVICES}


@pytest.mark.parametrize(
    ("name", "service"),
    [("CARREL_AGENT_MODULES", "execution"), ("CARREL_MODELS_FILE", "execution"), ("CARREL_TOOL_MODULES", "tools")],
)
def test_a_setting_reaches_the_one_service_that_it_is_for(
    name: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "mine")
    assert [each for each, environment in environments().items() if environment.get(name) == "mine"] == [service]


def test_nothing_else_of_the_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "CARREL_TOKEN", "CARREL_LISTEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "mine")
    assert not [each for each in environments().values() if "mine" in each.values()]


def test_what_the_launcher_is_told_for_all_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARREL_AGENT_MODULES", "mine")
    assert environments(CARREL_AGENT_MODULES="theirs")["execution"]["CARREL_AGENT_MODULES"] == "theirs"
