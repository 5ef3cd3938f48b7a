"""What one user of the demo received: the ground on which the checks stand. It judges nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from carrel.api.events.v1.event_pb2 import Event
from carrel.api.runs.v1.run_pb2 import Run
from carrel.api.tools.v1.tool_pb2 import Corpus, ToolCall
from carrel_cli.demo.trace_file import TraceFile
from carrel_cli.documents import parsed


@dataclass(frozen=True)
class Evidence:
    """Everything that came over the wire for one user, as it came."""

    tenant_id: str
    user_id: str
    trace: TraceFile
    run: Run
    events: Sequence[Event]
    """All of the live stream, in the order of arrival."""
    runs: Sequence[Run]
    tool_calls: Sequence[ToolCall]
    corpora: Sequence[Corpus]
    answers_about_the_other: Mapping[str, str] = field(default_factory=dict)
    """What was asked about the other user's run, and the code and reason of the answer."""

    @property
    def report(self) -> Mapping[str, Any]:
        """The result of the run; empty when it has none."""
        result = parsed(self.run.result_json)
        return result if isinstance(result, dict) else {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the report."""
        facts = self.report.get("facts")
        return facts if isinstance(facts, dict) else {}

    @property
    def own_ids(self) -> set[str]:
        """Ids that nobody else may ever see: of this user's run, events, tool calls and corpora."""
        return {
            self.run.run_id,
            self.run.thread_id,
            *(event.event_id for event in self.events),
            *(call.tool_call_id for call in self.tool_calls),
            *(corpus.corpus_id for corpus in self.corpora),
        }

    @property
    def wire(self) -> bytes:
        """All messages that this user received, as bytes: what is looked for in them cannot hide in a field."""
        messages = [self.run, *self.events, *self.runs, *self.tool_calls, *self.corpora]
        return b"\n".join(message.SerializeToString() for message in messages)
