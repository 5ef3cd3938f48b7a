"""The OpenAPI document: valid, complete, and true of the running gateway, which is tried against it by schemathesis."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from openapi_spec_validator import validate

from carrel_gateway.http_face.openapi import document
from carrel_gateway.http_face.paths import OPERATIONS
from carrel_gateway.methods import METHODS
from tests.gateway.edge import http_client
from tests.support.system import Person, System

SECONDS = 60
"""The most that schemathesis may take; the examples are few enough for half of it."""


async def test_the_document_is_served_to_anybody_and_valid(system: System) -> None:
    async with http_client(system) as http:
        served: dict[str, Any] = (await http.get("/openapi.json")).json()
    assert served == document()
    validate(served)


def test_every_method_of_the_gateway_has_a_path() -> None:
    assert sorted(operation.method for operation in OPERATIONS) == sorted(METHODS)


def test_every_operation_says_what_it_does() -> None:
    for methods in document()["paths"].values():
        for operation in methods.values():
            assert operation["summary"].endswith("."), operation["operationId"]


async def test_the_running_gateway_does_what_the_document_says(system: System, ada: Person, tmp_path: Path) -> None:
    """Seeded, so that a failure comes again. Streams have no end and are left out: their answers have tests of their own."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"http://{system.addresses['gateway_http']}/openapi.json",
        *("--header", f"Authorization: Bearer {ada.token}"),
        *("--seed", "1", "--max-examples", "15", "--phases", "examples,coverage,fuzzing"),
        *("--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off"),
        *("--exclude-path-regex", "/events$", "--request-timeout", "10", "--continue-on-failure"),
        # An id may be well formed and mean nothing, and what a body means is for the services behind to say.
        *("--exclude-checks", "positive_data_acceptance"),
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
