"""The issuer's keys: which are taken, when the file is read again, and what happens when it goes bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carrel_chassis.errors import CarrelError
from carrel_gateway.credentials import JwtChecker
from carrel_gateway.issuer_keys import JwksFile
from tests.gateway.edge import Issuer

ISSUER = Issuer(Path("/nowhere"))


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def jwk(algorithm: str, key: Any, key_id: str) -> dict[str, Any]:
    described: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**described, "kid": key_id, "alg": algorithm}


def write(path: Path, *keys: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"keys": keys}))
    return path


def checker(keys: JwksFile) -> JwtChecker:
    return JwtChecker(keys, "carrel-development", "carrel", "tenant")


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("EdDSA", Ed25519PrivateKey.generate()),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("RS256", rsa.generate_private_key(65537, 2048)),
    ],
)
async def test_the_three_algorithms_are_taken(tmp_path: Path, algorithm: str, key: Any) -> None:
    keys = JwksFile(write(tmp_path / "jwks.json", jwk(algorithm, key, "one")), Clock())
    token = jwt.encode(ISSUER.claims(), key, algorithm, headers={"kid": "one"})
    assert (await checker(keys).check(token)).user_id == "user-of-a-test"


async def test_a_key_checks_only_tokens_of_its_own_algorithm(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    keys = JwksFile(write(tmp_path / "jwks.json", jwk("RS256", key, "one")), Clock())
    token = jwt.encode(ISSUER.claims(), key, "RS512", headers={"kid": "one"})
    with pytest.raises(CarrelError, match="algorithm"):
        await checker(keys).check(token)


async def test_a_shared_secret_in_the_file_is_no_key(tmp_path: Path) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "one", "alg": "HS256"}
    assert await JwksFile(write(tmp_path / "jwks.json", secret), Clock()).find("one") is None


async def test_a_new_key_is_found_at_most_once_a_second(tmp_path: Path) -> None:
    clock = Clock()
    key = Ed25519PrivateKey.generate()
    path = write(tmp_path / "jwks.json", jwk("EdDSA", key, "one"))
    keys = JwksFile(path, clock)
    write(path, jwk("EdDSA", key, "two"))
    clock.now += 0.9
    assert await keys.find("two") is None
    clock.now += 0.2
    assert await keys.find("two") is not None
    assert await keys.find("one") is None


async def test_a_file_that_goes_bad_leaves_the_keys_that_were_read(tmp_path: Path) -> None:
    clock = Clock()
    path = write(tmp_path / "jwks.json", jwk("EdDSA", Ed25519PrivateKey.generate(), "one"))
    keys = JwksFile(path, clock)
    path.write_text("{")
    clock.now += 2
    assert await keys.find("two") is None
    assert await keys.find("one") is not None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"keys": 1}'])
async def test_a_bad_file_at_the_start_is_said_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    with pytest.raises(OSError, match="is not a JWKS"):
        JwksFile(path, Clock())


async def test_the_session_of_a_token_without_one_is_stable_and_its_own(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    check = checker(JwksFile(write(tmp_path / "jwks.json", jwk("EdDSA", key, "one")), Clock())).check
    first, again, other = (
        jwt.encode(ISSUER.claims(sid=None, jti=jti), key, "EdDSA", headers={"kid": "one"}) for jti in ("a", "a", "b")
    )
    sessions = [(await check(token)).session_id for token in (first, again, other)]
    assert sessions[0] == sessions[1] != sessions[2]
