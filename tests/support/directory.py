"""Administration in tests: people with roles, and the directory as the operator or as anybody."""

from __future__ import annotations

from typing import Any

from carrel.api.context.v1 import directory_service_pb2 as pb
from carrel.api.context.v1 import directory_service_pb2_grpc as rpc
from tests.support.system import Person, System


def directory(system: System) -> rpc.DirectoryServiceAsyncStub:
    """The service; say with the metadata who asks."""
    stub: rpc.DirectoryServiceAsyncStub = rpc.DirectoryServiceStub(system.peer("context").channel)
    return stub


def operator(system: System) -> Any:
    """The operator's metadata."""
    return system.peer("context").metadata()


async def update(system: System, person: Person, **changes: Any) -> pb.User:
    """Changes a user, as the operator."""
    request = pb.UpdateUserRequest(tenant_id=person.tenant_id, user_id=person.user_id, **changes)
    return (await directory(system).UpdateUser(request, metadata=operator(system), timeout=5)).user


async def with_role(system: System, role: str, tenant_id: str | None = None) -> Person:
    """A new user with this role, and a context of it."""
    person = await system.person(tenant_id)
    await update(system, person, role=role)
    return await system.person(person.tenant_id, person.user_id)
