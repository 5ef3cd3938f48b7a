"""What event-stream reads from its environment."""

from __future__ import annotations

from pydantic import Field, SecretStr

from carrel_chassis.settings import DatabaseSettings
from carrel_events.ring import GREATEST_RING_BYTES


class EventsSettings(DatabaseSettings):
    """The settings of event-stream; each from `CARREL_<FIELD>`."""

    writer_database_url: SecretStr
    """`postgresql+asyncpg://...` as the role that appends for all users and reads no event."""
    retention_database_url: SecretStr
    """The same as the role that removes what need not be kept."""
    keep_hours: float = Field(default=24.0, gt=0)
    """How long an event is kept at least."""
    keep_events: int = Field(default=1000, ge=0)
    """How many of a user's last events are kept at least, however old they are."""
    retention_interval_seconds: float = Field(default=60.0, gt=0)
    """How often retention looks for what is old enough."""
    open_streams_per_user: int = 50
    """How many streams a user may have open at a time in this process, unless the user's context says otherwise."""
    live_bytes: int = Field(default=64 * 1024 * 1024, ge=GREATEST_RING_BYTES)
    """How many bytes of recent events this process keeps for the streams of all users together. Beyond that those of the user whose
    events were used the longest ago go; a stream that had not taken them yet reads them from the database."""
    idle_check_seconds: float = 5.0
    """How often a user's position is compared with the log, give or take a quarter: a lost live copy that no other follows delays its
    event by at most this."""
    disconnected_check_seconds: float = 0.5
    """The same while the bus is away and no live copy comes at all."""
    heartbeat_seconds: float = 15.0
    """After so long without a message a stream sends its position."""
    slow_reader_seconds: float = 10.0
    """A stream whose reader takes longer to make room for one message is ended, unless the reader asked to be waited for."""
