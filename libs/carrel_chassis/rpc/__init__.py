"""Calls over gRPC: the server with its chain of layers, and the channel to other services."""
