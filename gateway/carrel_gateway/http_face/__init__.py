"""The HTTP face: JSON and server-sent events over the same operations as the gRPC face."""
