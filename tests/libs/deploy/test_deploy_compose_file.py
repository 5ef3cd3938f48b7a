"""docker-compose.yml says what it should: the right processes, settings that exist, no secret, nothing unpinned or open."""

from __future__ import annotations

import re
from typing import Any

import pytest

from carrel_chassis.deploy import DEV_ISSUER, NATS_URL, POSTGRES_URL
from carrel_chassis.process import SECRETS_DIR
from carrel_chassis.settings import ServiceSettings
from carrel_chassis.stack import SERVICES, Service
from carrel_context.settings import ContextSettings
from carrel_events.settings import EventsSettings
from carrel_execution.settings import ExecutionSettings
from carrel_gateway.settings import GatewaySettings
from carrel_tools.settings import ToolsSettings
from tests.libs.deploy.compose_file import FILE, ROOT, compose

SETTINGS: dict[str, type[ServiceSettings]] = {
    "context": ContextSettings,
    "events": EventsSettings,
    "tools": ToolsSettings,
    "execution": ExecutionSettings,
    "gateway": GatewaySettings,
}
CONTAINERS: dict[str, dict[str, Any]] = compose()["services"]
OURS = [service.name for service in SERVICES]


def test_every_process_of_the_launcher_is_there_and_nothing_unknown() -> None:
    assert set(CONTAINERS) == {*OURS, "prepare", "postgres", "nats"}
    assert set(SETTINGS) == set(OURS)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_container_runs_its_service(service: Service) -> None:
    assert CONTAINERS[service.name]["command"] == ["python", "-m", service.module]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_of_the_service(name: str) -> None:
    known = {f"CARREL_{field.upper()}" for field in SETTINGS[name].model_fields} | {SECRETS_DIR}
    # A misspelt variable would be ignored in silence.
    assert set(CONTAINERS[name]["environment"]) - known == set()


def test_every_variable_of_prepare_is_one_that_it_reads() -> None:
    assert set(CONTAINERS["prepare"]["environment"]) == {POSTGRES_URL, NATS_URL, DEV_ISSUER}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_image_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", CONTAINERS[name]["image"])


def test_our_image_carries_our_version_and_the_base_of_the_image_is_pinned() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {CONTAINERS[name]["image"] for name in [*OURS, "prepare"]} == {f"carrel:{version[1]}"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim", dockerfile, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${PYTHON}"}
    assert "--require-hashes" in dockerfile
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["10001:10001"]


def test_no_secret_stands_in_the_file() -> None:
    for name, container in CONTAINERS.items():
        for variable, value in container.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|_URL$|_KEY$", variable):
                assert re.search(r"\$\{CARREL_[A-Z]+_PASSWORD:\?", value), f"{name}: {variable}"
    # Nothing long enough for a password or a key, save names and sentences.
    assert re.findall(r"\b(?=\w*\d)(?=\w*[a-zA-Z])\w{20,}", FILE.read_text()) == []


def test_a_missing_password_is_an_error_that_says_how_to_make_one() -> None:
    said = re.findall(r"\$\{(CARREL_\w+_PASSWORD):\?([^}]*)\}", FILE.read_text())
    assert {name for name, sentence in said if "openssl rand" in sentence} == {name for name, _ in said}


@pytest.mark.parametrize("name", OURS)
def test_the_health_check_asks_the_port_on_which_the_service_listens(name: str) -> None:
    container = CONTAINERS[name]
    port = container["environment"]["CARREL_LISTEN"].rpartition(":")[2]
    assert container["healthcheck"]["test"] == [
        *("CMD", "python", "-m", "carrel_chassis.probe"),
        f"127.0.0.1:{port}",
    ]


def test_the_engines_have_health_checks_of_their_own() -> None:
    assert all(CONTAINERS[name]["healthcheck"]["test"][0] == "CMD" for name in ("postgres", "nats"))


@pytest.mark.parametrize("name", OURS)
def test_a_service_waits_for_what_it_stands_on(name: str) -> None:
    container = CONTAINERS[name]
    waits = {other: how["condition"] for other, how in container["depends_on"].items()}
    assert waits["prepare"] == "service_completed_successfully"
    called = {
        value.partition(":")[0]
        for variable, value in container["environment"].items()
        if variable.endswith("_ADDRESS") and name == "gateway"
    }
    assert called <= waits.keys()
    assert all(condition == "service_healthy" for other, condition in waits.items() if other != "prepare")


@pytest.mark.parametrize("name", OURS)
def test_the_addresses_of_others_are_those_on_which_they_listen(name: str) -> None:
    for variable, value in CONTAINERS[name]["environment"].items():
        if variable.endswith("_ADDRESS"):
            host, _, port = value.partition(":")
            assert CONTAINERS[host]["environment"]["CARREL_LISTEN"] == f"0.0.0.0:{port}"
            assert set(CONTAINERS[host]["networks"]) & set(CONTAINERS[name]["networks"])


@pytest.mark.parametrize("name", OURS)
def test_a_service_mounts_its_own_secrets_alone(name: str) -> None:
    (mount,) = [m for m in CONTAINERS[name]["volumes"] if isinstance(m, dict)]
    assert mount["source"] == "secrets" and mount["read_only"] is True
    assert mount["volume"] == {"subpath": name, "nocopy": True}
    assert mount["target"] == CONTAINERS[name]["environment"][SECRETS_DIR] == f"/secrets/{name}"
    others = [m for m in CONTAINERS[name]["volumes"] if m != mount]
    assert others == (["corpora:/corpora"] if name == "tools" else [])


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_confined(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"] and "cap_add" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["restart"] == ("no" if name == "prepare" else "unless-stopped")
    assert "privileged" not in container


def test_only_the_gateway_is_reached_from_outside_and_on_the_loopback_address() -> None:
    assert {name for name, container in CONTAINERS.items() if "ports" in container} == {"gateway"}
    assert all(port.startswith("127.0.0.1:") for port in CONTAINERS["gateway"]["ports"])
    networks = compose()["networks"]
    open_ones = {name for name, network in networks.items() if not network.get("internal")}
    assert {name for name, container in CONTAINERS.items() if open_ones & set(container["networks"])} == {"gateway"}


def test_no_two_services_use_one_port() -> None:
    ports = [
        value
        for name in OURS
        for variable, value in CONTAINERS[name]["environment"].items()
        if variable.endswith("LISTEN")
    ]
    assert len(ports) == len(set(ports)) == 11
