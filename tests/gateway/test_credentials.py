"""Who is let in: good tokens and keys at both faces, and every wrong one at every operation of both."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from tests.gateway.edge import HTTP, METHODS, Issuer, bearer, call, http_client
from tests.support.expect import refused
from tests.support.revoking import refusal_of, revoke
from tests.support.system import Person, System


def _by_hand(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _signed_with_public_key(issuer: Issuer) -> str:
    """HS256 with the public key as the secret: the confusion that pinned algorithms prevent."""
    import hashlib
    import hmac

    pem = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = _by_hand({"alg": "HS256", "typ": "JWT", "kid": issuer.key_id}, issuer.claims()).rsplit(".", 1)[0]
    tag = hmac.new(pem, unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(tag).rstrip(b'=').decode()}"


def _tampered(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    claims = base64.urlsafe_b64encode(json.dumps(issuer.claims(sub="somebody-else")).encode()).rstrip(b"=").decode()
    return f"{head}.{claims}.{signature}"


def bad_tokens(issuer: Issuer) -> dict[str, str]:
    """Tokens that must be refused."""
    now = int(time.time())
    stranger = Ed25519PrivateKey.generate()
    return {
        "expired": issuer.token(exp=now - 3600),
        "without expiry": issuer.token(exp=None),
        "not yet valid": issuer.token(nbf=now + 3600),
        "wrong issuer": issuer.token(iss="somebody"),
        "without issuer": issuer.token(iss=None),
        "wrong audience": issuer.token(aud="another-service"),
        "without audience": issuer.token(aud=None),
        "algorithm none": _by_hand({"alg": "none", "kid": issuer.key_id}, issuer.claims()),
        "algorithm None": _by_hand({"alg": "None", "kid": issuer.key_id}, issuer.claims()),
        "HS256 with the public key": _signed_with_public_key(issuer),
        "unknown kid": issuer.token(headers={"kid": "no-such-key"}),
        "without kid": issuer.token(headers={}),
        "kid that is a number": _by_hand({"alg": "EdDSA", "kid": 7}, issuer.claims()),
        "signed by a stranger": jwt.encode(issuer.claims(), stranger, "EdDSA", headers={"kid": issuer.key_id}),
        "tampered": _tampered(issuer),
        "key in its own header": jwt.encode(
            issuer.claims(), stranger, "EdDSA", headers={"kid": "no-such-key", "jwk": {"kty": "OKP", "x": "AA"}}
        ),
        "without tenant": issuer.token(tenant=None),
        "tenant that is a list": issuer.token(tenant=["a"]),
        "placeholder tenant": issuer.token(tenant="default"),
        "without user": issuer.token(sub=None),
        "placeholder user": issuer.token(sub="None"),
        "wrapped placeholder user": issuer.token(sub="-undefined-"),
        "user with a line feed": issuer.token(sub="ada\nx-admin: yes"),
        "overlong user": issuer.token(sub="u" * 129),
        "placeholder session": issuer.token(sid="null"),
        "session that is a number": issuer.token(sid=1),
        "no JWT": "registry",
        "two parts": "e30.e30",
        "unknown API key": "ck_dGVuYW50LXgKdXNlci14CmtleS14.c2VjcmV0",
        "API key of no form": "ck_",
        "endless": "x" * 8193,
    }


async def test_a_token_and_an_api_key_of_the_same_user_open_both_faces(
    system: System, edge: grpc.aio.Channel, ada: Person
) -> None:
    for credential in (ada.token, await system.api_key(ada)):
        await call(edge, "ListEvents", bearer(credential))
        async with http_client(system, credential) as http:
            assert (await http.get("/v1/events/page")).status_code == 200


@pytest.mark.parametrize("method", METHODS)
async def test_every_bad_token_is_refused_by_every_grpc_method(
    edge: grpc.aio.Channel, issuer: Issuer, method: str
) -> None:
    for name, token in bad_tokens(issuer).items():
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID") as refusal:
            await call(edge, method, bearer(token))
        assert token not in refusal.error.message, name


@pytest.mark.parametrize(("verb", "path"), HTTP)
async def test_every_bad_token_is_refused_by_every_http_path(
    system: System, issuer: Issuer, verb: str, path: str
) -> None:
    async with http_client(system) as http:
        for name, token in bad_tokens(issuer).items():
            answer = await http.request(verb, path, headers={"authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["reason"]) == (401, "CREDENTIAL_INVALID"), name
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic YTpi", "token"])
async def test_a_call_without_a_credential_is_refused(
    system: System, edge: grpc.aio.Channel, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    for method in METHODS:
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"):
            await call(edge, method, tuple(headers.items()))
    async with http_client(system) as http:
        for verb, path in HTTP:
            answer = await http.request(verb, path, headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (401, "CREDENTIAL_MISSING"), path
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_revoked_credential_opens_nothing(system: System, edge: grpc.aio.Channel) -> None:
    """A user with a token and an API key who has been at work a moment ago: each operation of both faces refuses both."""
    person = await system.person()
    credentials = [person.token, await system.api_key(person)]
    for credential in credentials:
        await call(edge, "ListRuns", bearer(credential))
    await revoke(system, person)
    await refusal_of(lambda: call(edge, "ListRuns", bearer(person.token)))
    for credential in credentials:
        for method in METHODS:
            with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
                await call(edge, method, bearer(credential))
        async with http_client(system, credential) as http:
            for verb, path in HTTP:
                answer = await http.request(verb, path)
                assert (answer.status_code, answer.json()["reason"]) == (401, "CONTEXT_REVOKED"), path


async def test_health_needs_no_credential(system: System) -> None:
    async with http_client(system) as http:
        assert (await http.get("/healthz")).json() == {"state": "alive"}
        ready = (await http.get("/readyz")).json()
    assert set(ready["services"]) == {"context", "agent-execution", "tool-dispatch", "event-stream"}


async def test_what_a_client_says_of_itself_is_not_believed_and_goes_no_further(
    system: System, edge: grpc.aio.Channel, ada: Person, eve: Person
) -> None:
    """Eve, with her own token, sends Ada's genuine context and a genuine service identity along: she stays Eve."""
    from tests.events.desk import Run, thought

    run = await Run.of(system, ada)
    await run.append(thought("of Ada"))
    stolen = system.peer("event-stream", "gateway").metadata(ada.signed_context)
    answer = await call(edge, "ListEvents", (*bearer(eve.token), *stolen))
    assert not pb.ListEventsResponse.FromString(answer).events
    own = await call(
        edge, "ListEvents", (*bearer(ada.token), *system.peer("event-stream").metadata(eve.signed_context))
    )
    assert [event.user_id for event in pb.ListEventsResponse.FromString(own).events] == [ada.user_id]
