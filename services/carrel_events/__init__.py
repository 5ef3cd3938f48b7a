"""The event-stream service: one durable, ordered log of events per user, and the streams that read it."""
