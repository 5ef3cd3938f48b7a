"""The gateway: the edge between people and the services. It holds no business rule and no table."""
