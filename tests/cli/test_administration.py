"""`carrel users|keys|limits|revoke|threads`, each as a process against a running system, with --json."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from tests.cli.program import as_person, carrel
from tests.support.directory import with_role
from tests.support.expect import eventually
from tests.support.system import Person, System


async def admin(system: System, *arguments: str) -> dict[str, Any]:
    """What a command answers in JSON."""
    ended = await carrel(*arguments, "--json", data_dir=system.data_dir)
    assert ended.code == 0, ended.out + ended.err
    return ended.document


async def test_users_are_created_changed_and_shut_out(system: System) -> None:
    tenant, user = f"tenant-{secrets.token_hex(4)}", "ada"
    made = await admin(system, "users", "create", user, "--tenant", tenant, "--role", "power")
    assert made["user"]["role"] == "power"
    changed = await admin(
        system, "users", "change", user, "--tenant", tenant, "--role", "standard", "--grant", "corpora.admin",
        "--remove", "tools.use",
    )  # fmt: skip
    assert changed["user"]["granted_scopes"] == ["corpora.admin"]
    assert changed["user"]["removed_scopes"] == ["tools.use"] and "tools.use" not in changed["user"]["scopes"]
    assert (await admin(system, "users", "disable", user, "--tenant", tenant))["user"]["disabled"]
    assert not (await admin(system, "users", "enable", user, "--tenant", tenant))["user"]["disabled"]
    [listed] = (await admin(system, "users", "list", "--tenant", tenant))["users"]
    assert listed == (await admin(system, "users", "show", user, "--tenant", tenant))["user"]
    assert tenant in {entry["tenant_id"] for entry in (await admin(system, "users", "tenants"))["tenants"]}


async def test_api_keys_are_made_listed_and_revoked(system: System, ada: Person) -> None:
    owner = (ada.user_id, "--tenant", ada.tenant_id)
    made = await admin(system, "keys", "create", *owner, "--label", "for the press")
    [listed] = (await admin(system, "keys", "list", *owner))["api_keys"]
    assert (listed["api_key_id"], listed["label"]) == (made["api_key_id"], "for the press")
    gateway = system.addresses["gateway"]
    assert (await carrel("agents", CARREL_TOKEN=made["api_key"], CARREL_ADDRESS=gateway)).code == 0
    await admin(system, "keys", "revoke", ada.user_id, made["api_key_id"], "--tenant", ada.tenant_id)

    async def shut() -> bool:
        return (await carrel("agents", CARREL_TOKEN=made["api_key"], CARREL_ADDRESS=gateway)).code == 1

    await eventually(shut, seconds=5)
    assert {"gateway", "operator"} <= {one["service"] for one in (await admin(system, "keys", "services"))["services"]}
    assert 1 <= len((await admin(system, "keys", "signing"))["keys"]) <= 2


async def test_limits_are_set_one_by_one(system: System, ada: Person) -> None:
    of = ("--tenant", ada.tenant_id, "--user", ada.user_id)
    await admin(system, "limits", "set", *of, "--open-streams", "3")
    found = await admin(system, "limits", "set", *of, "--running-runs", "2")
    assert (found["set"]["open_streams"], found["set"]["running_runs"]) == (3, 2)
    assert await admin(system, "limits", "show", *of) == found


@pytest.mark.parametrize("what", [("user",), ("session", "session-1"), ("run", "run-1"), ("scope", "tools.use")])
async def test_a_revocation_is_made_and_lifted(system: System, ada: Person, what: tuple[str, ...]) -> None:
    of = (*what, "--tenant", ada.tenant_id, "--user", ada.user_id)
    made = (await admin(system, "revoke", *of, "--reason", "a test"))["revocation"]
    assert made["revoked"] and made["kind"] == f"REVOCATION_KIND_{what[0].upper()}"
    assert not (await admin(system, "revoke", *of, "--lift"))["revocation"]["revoked"]


async def test_threads_of_a_person(system: System, ada: Person) -> None:
    made = (await as_person(system, ada, "threads", "create", "Bills", "--json")).document["thread"]
    renamed = await as_person(system, ada, "threads", "rename", made["thread_id"], "Bills of May", "--json")
    assert renamed.document["thread"]["title"] == "Bills of May"
    [listed] = (await as_person(system, ada, "threads", "list", "--json")).document["threads"]
    assert listed["thread_id"] == made["thread_id"]
    assert (await as_person(system, ada, "threads", "delete", made["thread_id"])).code == 0
    gone = await as_person(system, ada, "threads", "delete", made["thread_id"], "--json")
    assert (gone.code, gone.document["error"]["reason"]) == (1, "THREAD_NOT_FOUND")


async def test_what_is_refused_is_a_sentence_and_a_reason(system: System) -> None:
    ended = await carrel("users", "show", "nobody", "--tenant", "nowhere", data_dir=system.data_dir)
    assert ended.code == 1 and "[USER_NOT_FOUND]" in ended.err


async def test_an_administrator_needs_no_key_of_the_machine(system: System) -> None:
    """With a token the same commands go through the gateway, with the rights of its user."""
    chief, nobody = await with_role(system, "admin"), await system.person()
    tenant = ("--tenant", chief.tenant_id)
    made = await as_person(system, chief, "users", "create", "newcomer", *tenant, "--json")
    assert made.document["user"]["role"] == "standard"
    listed = await as_person(system, chief, "users", "list", *tenant, "--json")
    assert {user["user_id"] for user in listed.document["users"]} == {"newcomer", chief.user_id}
    assert (
        await as_person(system, chief, "limits", "set", *tenant, "--user", "newcomer", "--running-runs", "2")
    ).code == 0
    assert (await as_person(system, chief, "revoke", "user", *tenant, "--user", "newcomer")).code == 0
    for command in (("users", "list", *tenant), ("users", "tenants"), ("limits", "show", *tenant)):
        refused = await as_person(system, nobody, *command, "--json")
        assert (refused.code, refused.document["error"]["reason"]) == (1, "SCOPE_MISSING")


async def test_an_administrator_of_all_tenants_looks_at_a_process_and_nobody_else_does(
    system: System, ada: Person
) -> None:
    chief = await with_role(system, "super_admin")
    found = (await as_person(system, chief, "worker", "--json")).document["worker"]
    assert found["name"].startswith("worker-") and found["instances"]["cleanup_success_rate"] > 0
    rows = (await as_person(system, chief, "worker")).out
    assert found["name"] in rows and "processes of agents" in rows
    for person in (ada, await with_role(system, "admin")):
        refused = await as_person(system, person, "worker", "--json")
        assert (refused.code, refused.document["error"]["reason"]) == (1, "SCOPE_MISSING")
