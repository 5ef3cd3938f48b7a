"""An issuer over HTTP: its keys are discovered, fetched beside the calls, changed, withdrawn, and away; and which tenant a claim means."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from carrel_chassis.errors import CarrelError, Kind
from carrel_gateway.credentials import JwtChecker
from carrel_gateway.issuer_keys import DiscoveredKeys
from tests.gateway.edge import Issuer, http_client, replica
from tests.gateway.issuer_over_http import HttpIssuer, http_issuer
from tests.support.system import Person, System


class Clock:
    """Seconds that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"aud": "carrel", "sub": "user-1", "tenant": "acme", "iat": now, "exp": now + 600}
    return {**good, **changes}


async def test_a_token_of_a_discovered_issuer_opens_the_gateway(system: System) -> None:
    async with http_issuer() as issuer:
        told = {"jwks_file": None, "oidc_discovery": True, "jwt_issuer": issuer.address}
        async with replica(system, **told) as gateway:
            token = issuer.token("one", claims(tenant="tenant-of-oidc"))
            async with http_client(system, token, gateway.http_address) as http:
                assert (await http.get("/v1/runs")).json()["runs"] == []
            stranger = HttpIssuer()
            stranger.address = issuer.address
            stranger.new_key("one")
            async with http_client(system, stranger.token("one", claims()), gateway.http_address) as http:
                assert (await http.get("/v1/runs")).status_code == 401


async def test_a_gateway_whose_issuer_is_away_starts_and_takes_api_keys(system: System, ada: Person) -> None:
    async with http_issuer() as issuer:
        issuer.state = 503
        told = {"jwks_file": None, "oidc_discovery": True, "jwt_issuer": issuer.address}
        async with replica(system, **told) as gateway:
            async with http_client(system, issuer.token("one", claims()), gateway.http_address) as http:
                answer = await http.get("/v1/runs")
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            async with http_client(system, await system.api_key(ada), gateway.http_address) as http:
                assert (await http.get("/v1/runs")).status_code == 200


async def test_a_silent_issuer_holds_up_nobody_else(system: System, ada: Person) -> None:
    """The fetch is beside the loop's other work: an API key is checked while a token waits for the issuer."""
    async with http_issuer() as issuer:
        issuer.held.clear()
        told = {"jwks_file": None, "oidc_discovery": True, "jwt_issuer": issuer.address}
        async with (
            replica(system, **told) as gateway,
            http_client(system, issuer.token("one", claims()), gateway.http_address) as slow,
            http_client(system, await system.api_key(ada), gateway.http_address) as http,
        ):
            waiting = asyncio.create_task(slow.get("/v1/runs"))
            begin = time.monotonic()
            assert (await http.get("/v1/runs")).status_code == 200
            assert time.monotonic() - begin < 1
            assert not waiting.done()
            issuer.held.set()
            assert (await waiting).status_code == 200


async def test_many_unknown_keys_are_one_question() -> None:
    async with http_issuer() as issuer, httpx.AsyncClient() as http:
        clock = Clock()
        keys = DiscoveredKeys(issuer.address, http, clock)
        assert await keys.find("one") is not None
        asked = len(issuer.asked)
        issuer.new_key("two")
        clock.now += 10
        found = await asyncio.gather(*(keys.find(f"forged-{number}") for number in range(100)), keys.find("two"))
        assert found[:100] == [None] * 100
        assert found[100] is not None
        assert len(issuer.asked) == asked + 2  # the configuration and the keys


async def test_a_withdrawn_key_is_forgotten_and_an_issuer_that_is_away_leaves_the_keys() -> None:
    async with http_issuer() as issuer, httpx.AsyncClient() as http:
        clock = Clock()
        keys = DiscoveredKeys(issuer.address, http, clock)
        await keys.find("one")
        issuer.state = 500
        clock.now += 10
        assert await keys.find("unknown") is None
        assert await keys.find("one") is not None
        issuer.state, issuer.keys = 200, {}
        issuer.new_key("two")
        clock.now += 10
        assert await keys.find("two") is not None
        assert await keys.find("one") is None


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        (200, {"issuer": "https://somebody.example"}),
        (200, {"jwks_uri": "http://keys.example/keys"}),
        (200, {"jwks_uri": None}),
        (302, {}),
        (404, {}),
        (200, {"padding": "x" * 600_000}),
    ],
)
async def test_a_discovery_that_is_not_sound_gives_no_keys(state: int, changes: dict[str, Any]) -> None:
    async with http_issuer() as issuer, httpx.AsyncClient() as http:
        issuer.state, issuer.changes = state, changes
        with pytest.raises(CarrelError) as refusal:
            await DiscoveredKeys(issuer.address, http, Clock()).find("one")
        assert refusal.value.kind is Kind.UNAVAILABLE


def test_keys_come_over_tls_or_from_this_machine() -> None:
    for address in ("http://issuer.example", "ftp://issuer.example", "file:///etc/jwks.json", "https://", ""):
        with pytest.raises(OSError, match="no https address"):
            DiscoveredKeys(address, httpx.AsyncClient(), Clock())


@pytest.mark.parametrize(
    ("claim", "tenants", "brought", "tenant"),
    [
        ("tenant", {}, {"tenant": "acme"}, "acme"),
        ("organization.id", {}, {"organization": {"id": "acme"}}, "acme"),
        ("https://acme.example/tenant", {}, {"https://acme.example/tenant": "acme"}, "acme"),
        ("org", {"0b9f": "acme"}, {"org": "0b9f"}, "acme"),
        ("org", {"0b9f": "acme"}, {"org": "acme"}, None),
        ("org", {"0b9f": "acme"}, {"org": ["0b9f"]}, None),
        ("organization.id", {}, {"organization": "acme"}, None),
        ("organization.id", {}, {}, None),
    ],
)
async def test_a_claim_means_a_tenant(
    issuer: Issuer, claim: str, tenants: dict[str, str], brought: dict[str, Any], tenant: str | None
) -> None:
    async with http_issuer() as over_http, httpx.AsyncClient() as http:
        keys = DiscoveredKeys(over_http.address, http, Clock())
        checker = JwtChecker(keys, over_http.address, "carrel", claim, tenants)
        token = over_http.token("one", {**claims(tenant=None), **brought})
        if tenant is not None:
            assert (await checker.check(token)).tenant_id == tenant
        else:
            with pytest.raises(CarrelError):
                await checker.check(token)
