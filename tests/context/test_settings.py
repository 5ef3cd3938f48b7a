"""What the context service takes from its environment, and what it refuses."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from pydantic import ValidationError

from carrel_chassis.identity import ResourceLimits
from carrel_context.settings import ContextSettings

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LISTEN", "SERVICE_KEY_FILE", "SERVICE_TRUST_FILE", "DATABASE_URL", "ADMIN_DATABASE_URL"):
        monkeypatch.setenv(f"CARREL_{name}", "x")
    monkeypatch.setenv("CARREL_REVOCATIONS_DATABASE_URL", "x")
    return monkeypatch


def test_the_master_key_comes_from_a_file_or_from_the_settings(environment, tmp_path: Path) -> None:
    (tmp_path / "master.key").write_text(KEY + "\n")
    environment.setenv("CARREL_MASTER_KEY_FILE", str(tmp_path / "master.key"))
    assert ContextSettings().read_master_key() == bytes(range(32))
    environment.setenv("CARREL_MASTER_KEY", KEY)
    with pytest.raises(ValidationError, match="either MASTER_KEY_FILE or MASTER_KEY"):
        ContextSettings()
    environment.delenv("CARREL_MASTER_KEY_FILE")
    settings = ContextSettings()
    assert settings.read_master_key() == bytes(range(32))
    assert KEY not in str(settings.in_effect())


@pytest.mark.parametrize("bad", ["nonsense!", base64.b64encode(b"short").decode()])
def test_a_master_key_that_is_none_is_refused(environment, bad: str) -> None:
    environment.setenv("CARREL_MASTER_KEY", bad)
    with pytest.raises(OSError, match="32 bytes"):
        ContextSettings().read_master_key()


def test_default_limits_are_json(environment) -> None:
    environment.setenv("CARREL_MASTER_KEY", KEY)
    environment.setenv("CARREL_USER_LIMITS", '{"running_runs": 3, "open_streams": 7}')
    assert ContextSettings().user_limits == ResourceLimits(running_runs=3, open_streams=7)


def test_revocations_are_not_forgotten_before_the_runs_that_they_stop(environment) -> None:
    environment.setenv("CARREL_MASTER_KEY", KEY)
    environment.setenv("CARREL_SESSION_REVOCATION_SECONDS", "60")
    with pytest.raises(ValidationError, match="could go on"):
        ContextSettings()
