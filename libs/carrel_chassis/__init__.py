"""What every service stands on: calls, identity, database, settings, logs. It knows nothing of any one service."""
