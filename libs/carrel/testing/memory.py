"""The journal of a run in memory, and what in it is safe from a crash."""

from __future__ import annotations

from carrel.replay import Answered, Journal, StepKind, StepRecord


class JournalInMemory:
    """What is kept survives a crash; what is only held back does not."""

    def __init__(self) -> None:
        self.steps: dict[str, StepRecord] = {}
        self.waits: dict[str, Answered] = {}
        self.ledger: dict[str, tuple[str, str, StepRecord]] = {}
        """Calls of tools by their place: the tool, the arguments, what came of it. In a real run this is tool-dispatch's."""
        self._held_back: list[StepRecord] = []

    def before(self) -> Journal:
        """What a new attempt finds."""
        self._held_back = []
        return Journal(self.steps.values(), self.waits.values())

    def hold_back(self, step: StepRecord) -> None:
        """Keeps the step together with the next thing that reaches the world."""
        self._held_back.append(step)

    def keep(self, step: StepRecord) -> None:
        """Keeps the step, and all before it."""
        self.hold_back(step)
        self.flush()

    def close(self) -> None:
        """Keeps what a reader of the journal should find at the end. Times that nothing has followed from are let go."""
        self._held_back = [step for step in self._held_back if step.kind is not StepKind.LOCAL]
        self.flush()

    def flush(self) -> None:
        """Keeps what was held back."""
        self.steps.update((step.step_id, step) for step in self._held_back)
        self._held_back = []
