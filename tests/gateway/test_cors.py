"""Pages of other origins: those that are named may call, with a credential that they hold themselves; nobody else is told anything."""

from __future__ import annotations

from tests.gateway.edge import http_client, replica
from tests.support.system import Person, System

DESK = "https://desk.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


async def test_a_named_origin_may_call_and_read_refusals(system: System, ada: Person) -> None:
    async with (
        replica(system, cors_origins=(DESK,)) as gateway,
        http_client(system, address=gateway.http_address) as http,
    ):
        asked = await http.options("/v1/runs", headers={"origin": DESK, **PREFLIGHT})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, DESK)
        refusal = await http.get("/v1/runs", headers={"origin": DESK})
        assert (refusal.status_code, refusal.headers["access-control-allow-origin"]) == (401, DESK)
        answer = await http.get("/v1/runs", headers={"origin": DESK, "authorization": f"Bearer {ada.token}"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, DESK)
        # Credentials of the browser's own, cookies, would let any page act for whoever is signed in.
        assert "access-control-allow-credentials" not in answer.headers


async def test_another_origin_may_not(system: System, ada: Person) -> None:
    async with (
        replica(system, cors_origins=(DESK,)) as gateway,
        http_client(system, ada.token, gateway.http_address) as http,
    ):
        for origin in ("https://evil.example", "https://desk.example.evil.example", "null", "http://desk.example"):
            asked = await http.options("/v1/runs", headers={"origin": origin, **PREFLIGHT})
            assert asked.status_code == 400
            answer = await http.get("/v1/runs", headers={"origin": origin})
            assert "access-control-allow-origin" not in answer.headers


async def test_unless_origins_are_named_there_are_none(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http:
        answer = await http.get("/v1/runs", headers={"origin": DESK})
        assert not [name for name in answer.headers if name.startswith("access-control")]
