"""The event stream under faults; see `events`."""

import os

# The generator starts servers while it has channels open; gRPC would remark on each of them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
