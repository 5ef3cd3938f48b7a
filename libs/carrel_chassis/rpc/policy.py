"""Who may call which method: read from the options beside the methods in the protos, so that a method without a policy is closed."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import Default as default_pool

from carrel.api.policy.v1 import policy_pb2 as pb

Caller = pb.Caller


def policies_of(service: str) -> dict[str, pb.MethodPolicy]:
    """The policy of each method of a service by its full path, "/package.Service/Method"."""
    descriptor: ServiceDescriptor = default_pool().FindServiceByName(service)
    return {
        f"/{service}/{method.name}": method.GetOptions().Extensions[pb.method_policy] for method in descriptor.methods
    }
