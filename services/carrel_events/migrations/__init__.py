"""The tables of event-stream, version by version."""
