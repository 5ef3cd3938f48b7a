"""The settings of tool-dispatch, read once at its start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from carrel_chassis.settings import DatabaseSettings
from carrel_tools.keyring import read_masters


class ToolsSettings(DatabaseSettings):
    """Where the corpora lie and what a tool may use. Replicas share one folder of corpora."""

    admin_database_url: SecretStr
    """`postgresql+asyncpg://...` as the role that administers the tools of one tenant at a time."""
    keeper_database_url: SecretStr
    """The same as the role that reads the policies of all tenants, counts calls, and removes old lines of the ledger."""
    policy_poll_seconds: float = Field(default=1.0, gt=0)
    """How often it is asked whether a tenant has changed its policy, in case a push was lost."""
    policy_stale_seconds: float = Field(default=10.0, gt=0)
    """After so long without an answer no tool is called until there is one."""
    approval_seconds: float = Field(default=24 * 3600.0, gt=0)
    """How long a user may take to consent to a call that needs it."""
    ledger_keep_days: float = Field(default=90.0, ge=31)
    """How long calls and decisions are kept. A run lives for at most 30 days (GRANT_MAX_AGE_SECONDS of the context service) and may
    ask for what its steps came to until then: what is removed sooner could happen a second time."""
    clean_seconds: float = Field(default=600.0, gt=0)
    """How often older ones are looked for, and uploads that broke off a day ago."""
    corpus_dir: Path
    """The folder of all users' files, each encrypted; the service alone may enter it."""
    corpus_store: str = ""
    """Where corpora lie instead, as "s3://bucket/prefix", "gs://..." or "az://..."; its credentials come from the environment."""
    corpus_key_file: Path | None = None
    """A file with the key that the users' keys are encrypted under, 32 bytes in base64; or a line "NAME KEY" for each of several, of which
    the first is used and the others still open what they have closed."""
    corpus_key: SecretStr = SecretStr("")
    """The same text, where it comes from the environment or a secrets store and not from a file."""
    corpus_max_bytes: int = 256 * 1024 * 1024
    """The greatest size of one corpus."""
    corpus_user_bytes: int = 1024 * 1024 * 1024
    """The greatest size of all corpora of a user together."""
    corpus_user_count: int = 500
    """How many corpora a user may keep."""
    user_uploads: int = 2
    """How many uploads of a user may be under way in this process."""
    user_tool_calls: int = 8
    """How many tool calls of a user may be under way in this process."""
    user_tool_cpu_seconds: float = Field(default=60.0, ge=0)
    """How many seconds of CPU the sandboxed work of a user may use in a minute, in all processes together; 0 for as many as it likes."""
    user_tool_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """How many bytes of arguments and results a user's tool calls may move in a minute, in all processes together; 0 for as many as they
    like."""
    user_sandbox_memory_mb: int = Field(default=2048, ge=1)
    """How much memory the sandboxed work of a user may have at a time in this process, in MiB, with the corpora that it reads; what would
    go beyond waits."""
    tool_deadline_seconds: float = 60.0
    """How long a tool may take, where its caller does not leave less."""
    tool_modules: str = ""
    """Python modules, comma-separated, each with `TOOLS: tuple[type[Tool], ...]`: tools beside those that come with it."""
    http_hosts: str = ""
    """The hosts that `http_fetch` may ask, comma-separated: "example.com, *.example.org, http://example.net:8080"; none without it."""
    http_private_hosts: str = ""
    """The same for hosts that may lie at addresses which are not public: services of the operator's own network."""
    http_max_bytes: int = 4 * 1024 * 1024
    """The greatest page that is taken."""
    sandbox_level: int = Field(default=3, ge=1, le=3)
    """The greatest level of the sandbox that is used, where the machine has it: 1 rlimits, 2 Landlock and seccomp, 3 bubblewrap."""
    sql_memory_mb: int = 256
    """The memory of one query, in MiB; its process may map three times as much in all."""
    sql_processes: int = 4
    """How many queries and other sandboxed calls run at a time in this process, of all users."""
    user_sql_processes: int = 2
    """How many of these may be of one user."""

    @model_validator(mode="after")
    def _one_key(self) -> ToolsSettings:
        if (self.corpus_key_file is None) == (not self.corpus_key.get_secret_value()):
            raise ValueError("set either CORPUS_KEY_FILE or CORPUS_KEY")
        return self

    def read_corpus_keys(self) -> dict[str, bytes]:
        """The keys by their names; raises OSError when the file cannot be read, ValueError when it holds no key."""
        return read_masters(self.corpus_key.get_secret_value() or (self.corpus_key_file or Path()).read_text())
