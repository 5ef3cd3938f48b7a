"""The certificates of a system: made once, made anew in time, and always those of one authority."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from carrel_chassis.stack.certificates import (
    certificate_files,
    ensure_certificates,
    operator_tls,
    settle_certificates,
)
from carrel_chassis.stack.keys import IDENTITIES

NAMES = ("context", "gateway")
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def changed(folder: Path, now: datetime) -> set[str]:
    """The certificates that a call at that time makes anew."""
    before = texts(folder)
    ensure_certificates(folder, NAMES, now)
    after = texts(folder)
    return {name.removesuffix(".crt") for name in after if name.endswith(".crt") and after[name] != before.get(name)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ensure_certificates(tmp_path / "tls", NAMES, NOW)
    return tmp_path / "tls"


def test_each_has_its_own_name_alone_from_one_authority_and_files_are_private(folder: Path) -> None:
    authority = certificate(folder, "ca")
    for name in NAMES:
        found = certificate(folder, name)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [name]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))


def test_what_is_good_is_kept_and_what_is_past_half_of_its_life_is_made_anew(folder: Path) -> None:
    assert changed(folder, NOW + timedelta(days=180)) == set()
    assert changed(folder, NOW + timedelta(days=190)) == set(NAMES)
    assert changed(folder, NOW + timedelta(days=191)) == set()
    assert changed(folder, NOW + timedelta(days=1900)) == {"ca", *NAMES}


def test_what_is_missing_or_does_not_fit_is_made_anew(folder: Path) -> None:
    (folder / "gateway.crt").unlink()
    assert changed(folder, NOW) == {"gateway"}
    (folder / "gateway.key").write_text((folder / "context.key").read_text())
    assert changed(folder, NOW) == {"gateway"}
    (folder / "ca.key").unlink()
    assert changed(folder, NOW) == {"ca", *NAMES}


def test_a_damaged_file_is_said_so_and_not_replaced(folder: Path) -> None:
    (folder / "context.crt").write_text("{")
    with pytest.raises(ValueError, match="context"):
        ensure_certificates(folder, NAMES, NOW)
    assert (folder / "context.crt").read_text() == "{"


def test_an_operator_finds_those_of_the_folder_or_those_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert operator_tls(tmp_path) is None
    own = settle_certificates(tmp_path / "made", wanted=True)
    assert own is not None
    by_folder = operator_tls(tmp_path / "made")
    for setting, file in certificate_files(own, "operator").items():
        monkeypatch.setenv(f"CARREL_{setting}", file)
    by_name = operator_tls(tmp_path)
    assert by_folder is not None and by_name is not None
    assert by_folder.material() == by_name.material()
    assert by_name.material().certificate == (own / "operator.crt").read_bytes()


def test_a_system_that_wants_none_keeps_none(tmp_path: Path) -> None:
    made = settle_certificates(tmp_path, wanted=True)
    assert made is not None and {path.stem for path in made.iterdir()} == {"ca", *IDENTITIES}
    assert settle_certificates(tmp_path, wanted=False) is None
    assert list(tmp_path.iterdir()) == []
