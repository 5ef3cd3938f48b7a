"""`prepare` on servers run by others: what it makes, what it keeps, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from carrel_chassis.process import read_settings
from carrel_chassis.stack import SERVICES, Service
from carrel_chassis.stack.roles import LOGIN_ROLES
from tests.libs.deploy.compose_file import ROOT, compose
from tests.libs.deploy.conftest import External, deploy, run
from tests.libs.deploy.test_deploy_compose_file import SETTINGS

PATHS = re.compile(r"^/.*/(service\.key|trust\.json|master\.key|corpus\.key|jwks\.json|ca\.crt|peer\.(crt|key))$")

AS_IT_IS = ("--dev-issuer", "--peer-tls")
"""The options that the prepared folder was made with."""


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below the folder: its text and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_text(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def files_of(prepared: Path, service: Service) -> dict[str, str]:
    return {path.name: path.read_text() for path in (prepared / service.name).iterdir()}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without variables of Carrel."""
    for name in [name for name in os.environ if name.startswith("CARREL_")]:
        monkeypatch.delenv(name)
    yield monkeypatch


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_reads_its_settings_from_its_folder(
    prepared: Path, service: Service, environment: pytest.MonkeyPatch
) -> None:
    for name, value in {"LISTEN": "here:1", "HTTP_LISTEN": "here:2", "CORPUS_DIR": "/corpora"}.items():
        environment.setenv(f"CARREL_{name}", value)
    environment.setenv("CARREL_SECRETS_DIR", str(prepared / service.name))
    settings = read_settings(SETTINGS[service.name])
    assert settings.service_key_file.read_text() == (prepared / "keys" / f"{service.identity}.key").read_text()
    fields = {f"carrel_{field}" for field in type(settings).model_fields}
    # Those of the launcher's map, whether the service reads all of them yet or not.
    fields |= {f"carrel_{setting.lower()}" for setting in service.database_roles}
    beside = {"service.key", "trust.json", "master.key", "corpus.key", "jwks.json"}
    beside |= {"ca.crt", "peer.crt", "peer.key"}
    assert files_of(prepared, service).keys() <= fields | beside


def test_the_environment_wins_over_the_folder(prepared: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CARREL_SECRETS_DIR", str(prepared / "context"))
    environment.setenv("CARREL_LISTEN", "here:1")
    environment.setenv("CARREL_MASTER_KEY_FILE", "/elsewhere")
    settings = read_settings(SETTINGS["context"])
    assert settings.model_dump(mode="json")["master_key_file"] == "/elsewhere"


async def test_a_folder_of_secrets_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "carrel_context")
    answer = await run(*command, CARREL_SECRETS_DIR=str(tmp_path / "gone"))
    assert (answer.code, answer.said.count("\n")) == (2, 1)
    assert "its secrets cannot be read" in answer.said and str(tmp_path / "gone") in answer.said


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_sees_its_own_secrets_alone(prepared: Path, service: Service) -> None:
    secrets = {
        **json.loads((prepared / "secrets.json").read_text()),
        **{path.stem: path.read_text() for path in (prepared / "keys").glob("*.key")},
        **{f"tls {path.stem}": path.read_text() for path in (prepared / "tls").glob("*.key")},
        "nats": "for-the-bus",
        "admin": ":admins@",
    }
    text = "\n".join(files_of(prepared, service).values())
    own = {service.identity, f"tls {service.identity}", *service.database_roles.values()}
    own |= {"master"} if service.name == "context" else set()
    own |= {"corpus"} if service.name == "tools" else set()
    own |= {"nats"} if reads_the_bus(service) else set()
    assert {name for name, secret in secrets.items() if secret in text} == own


def reads_the_bus(service: Service) -> bool:
    """Whether its code, or what every service stands on, asks for the address of NATS."""
    (source,) = [folder for folder in ROOT.glob(f"*/{service.module}") if folder.is_dir()]
    chassis = ROOT / "libs" / "carrel_chassis"
    shared = [path for path in chassis.rglob("*.py") if "stack" not in path.parts]
    return any("settings.nats_url" in path.read_text() for path in (*source.rglob("*.py"), *shared))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_that_is_given_the_bus_can_reach_it(prepared: Path, service: Service) -> None:
    containers = compose()["services"]
    if "carrel_nats_url" in files_of(prepared, service):
        assert set(containers[service.name]["networks"]) & set(containers["nats"]["networks"])


def test_all_that_was_written_is_private(prepared: Path) -> None:
    for path in (prepared, *prepared.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert all(PATHS.match(text) for path in prepared.glob("*/carrel_*_file") for text in [path.read_text()])


async def test_a_second_time_changes_nothing(external: External, prepared: Path) -> None:
    before = contents(prepared)
    answer = await external.prepare(prepared, *AS_IT_IS)
    assert answer.code == 0, answer.said
    assert contents(prepared) == before


async def test_every_role_gets_in_with_its_password_and_finds_its_tables(external: External, prepared: Path) -> None:
    for service in SERVICES:
        for setting in service.database_roles:
            url = (prepared / service.name / f"carrel_{setting.lower()}").read_text()
            connection = await asyncpg.connect(url.replace("+asyncpg", ""))
            tables = await connection.fetchval(
                "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename <> 'alembic_version'"
            )
            await connection.close()
            assert tables > 0, service.name


async def test_another_folder_is_refused_until_it_says_that_it_takes_over(
    external: External, prepared: Path, tmp_path: Path
) -> None:
    answer = await external.prepare(tmp_path / "other")
    assert (answer.code, answer.said.count("\n")) == (1, 1)
    assert "was prepared from another folder" in answer.said
    url = (prepared / "tools" / "carrel_database_url").read_text().replace("+asyncpg", "")
    await (await asyncpg.connect(url)).close()
    taken = await external.prepare(tmp_path / "other", "--take-over", "--mounted-at", "/secrets")
    assert taken.code == 0, taken.said
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url)
    assert (tmp_path / "other/tools/carrel_service_key_file").read_text() == "/secrets/tools/service.key"
    assert not (tmp_path / "other/gateway/jwks.json").exists()
    assert (await external.prepare(prepared, *AS_IT_IS)).code == 0
    await (await asyncpg.connect(url)).close()


async def test_a_password_that_is_struck_out_is_made_anew(external: External, prepared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared, tmp_path / "copy")
    kept = json.loads((folder / "secrets.json").read_text())
    old = kept.pop("carrel_tools")
    (folder / "secrets.json").write_text(json.dumps(kept))
    # Without --dev-issuer and --peer-tls: what was there for them goes.
    assert (await external.prepare(folder)).code == 0
    new = json.loads((folder / "secrets.json").read_text())
    assert new.pop("carrel_tools") != old
    assert new == kept and set(new) | {"carrel_tools"} == set(LOGIN_ROLES)
    assert not list((folder / "gateway").glob("*jw*"))
    assert not list(folder.glob("*/*peer*")) and not (folder / "tls").exists()
    assert (await external.prepare(prepared, *AS_IT_IS)).code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--nats-url", "nats://127.0.0.1:1"], "The NATS server of the URL does not answer"),
        (["--postgres-url", "postgresql://a:b@127.0.0.1:1/x"], "PostgreSQL at 127.0.0.1:1 does not let us in"),
        (["--postgres-url", "postgresql://a:b@127.0.0.1:x/x"], "The PostgreSQL URL is not one"),
        (["--postgres-url", "mysql://a:b@127.0.0.1/x"], "The PostgreSQL URL is not of the form"),
        (["--owner", "ada"], "Argument --owner: invalid"),
    ],
)
async def test_what_is_wrong_is_said_in_one_sentence(
    external: External, tmp_path: Path, options: list[str], sentence: str
) -> None:
    answer = await external.prepare(tmp_path / "new", *options)
    assert answer.code in (1, 2) and answer.said.startswith(sentence)
    assert answer.said.count("\n") == 1 and ":b@" not in answer.said


async def test_a_url_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    answer = await deploy("prepare", "--to", str(tmp_path), "--nats-url", "nats://127.0.0.1:1")
    assert answer.code == 2 and answer.said == "The following arguments are required: --postgres-url; see --help.\n"


@pytest.mark.parametrize("name", ["secrets.json", "tls/context.crt", "tls/ca.key"])
async def test_a_key_that_was_damaged_is_named(external: External, prepared: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(prepared, tmp_path / "copy")
    (folder / name).write_text("{")
    answer = await external.prepare(folder, *AS_IT_IS)
    assert answer.code == 1 and "restore it from a copy" in answer.said


async def test_a_folder_of_somebody_else_is_left_alone(external: External, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("sun")
    answer = await external.prepare(tmp_path)
    assert answer.code == 1 and "holds holiday.jpg and no secrets.json" in answer.said
    assert os.listdir(tmp_path) == ["holiday.jpg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
async def test_root_gives_the_folders_to_who_reads_them(external: External, prepared: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared, tmp_path / "copy")
    assert (await external.prepare(folder, "--owner", "10001")).code == 0
    for service in SERVICES:
        for path in (folder / service.name, *(folder / service.name).iterdir()):
            assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o077) == (10001, 10001, 0)
    for path in (folder / "secrets.json", folder / "keys"):
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (0, 0)
    assert folder.stat().st_mode & 0o777 == 0o711


async def test_an_operator_without_a_folder_is_told_so(tmp_path: Path) -> None:
    answer = await deploy(
        "api-key", "--to", str(tmp_path), "--context", "127.0.0.1:1", "--tenant", "acme", "--user", "ada"
    )
    assert (answer.code, answer.said.count("\n")) == (1, 1)
    assert "say prepare first" in answer.said
