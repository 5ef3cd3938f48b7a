"""Whether a call may run: at this moment, for this user, with these arguments. Every refusal leaves a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import UserContext
from carrel_tools import domain, repository
from carrel_tools.consent import Approval, approval_required, digest_of, refusal_of
from carrel_tools.domain import Outcome, Progress, Repeat, Step
from carrel_tools.policies import Policies
from carrel_tools.policy import Decision, Effect
from carrel_tools.tool import JSON, Tool
from carrel_tools.tool_system import ToolProvider, ToolSystem

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it came."""

    step_id: str
    tool: str
    arguments_json: str
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may run."""

    step: Step
    tool: Tool
    arguments: dict[str, JSON]
    on_progress: OnProgress | None = None
    """Hears how far the tool has come."""


class Admission:
    """Decides by the tools' own demands, the tenant's policy, and the user's consent where one is needed."""

    def __init__(
        self,
        sessions: UserSessions,
        policies: Policies,
        providers: Sequence[ToolProvider],
        *,
        approval_seconds: float,
    ) -> None:
        self._sessions = sessions
        self._policies = policies
        self._providers = providers
        self._approval_seconds = approval_seconds

    async def tool_system(self, user: UserContext) -> ToolSystem:
        """The tools as the user sees them now."""
        return ToolSystem(user, await self._policies.of(user.tenant_id), self._providers)

    async def admit(self, user: UserContext, call_id: str, asked: Asked) -> Admitted:
        """The call, checked. Raises TOOL_NOT_FOUND, INVALID_ARGUMENT, TOOL_CALL_DENIED, APPROVAL_REQUIRED.

        Hidden and absent tools leave the same line and take the same time; only the line's rule tells which it was.
        """
        domain.check_step_id(asked.step_id)
        system = await self.tool_system(user)
        found = await system.find(asked.tool)
        view = system.view(found.tool if found is not None else None)
        if found is None or view.effect is Effect.DENY:
            error = domain.tool_not_found(asked.tool)
            if domain.is_tool_name(asked.tool):
                await self._refuse(user, call_id, _step(user, asked, view), error)
            raise error
        arguments = domain.read_arguments(asked.arguments_json)
        found.check_arguments(arguments)
        decision = system.decide(found.tool, arguments)
        step = _step(user, asked, decision, domain.sha256_of(arguments), repeat_of(found.tool))
        if decision.effect is Effect.DENY:
            denied = domain.tool_call_denied(asked.tool)
            await self._refuse(user, call_id, step, denied)
            raise denied
        if decision.effect is Effect.REQUIRE_APPROVAL:
            step = await self._consented(user, call_id, step, digest_of(asked.tool, arguments), asked.approval)
        return Admitted(step, found.tool, arguments)

    async def _consented(
        self, user: UserContext, call_id: str, step: Step, digest: str, approval: Approval | None
    ) -> Step:
        """The step with the consent it may run with. What has ended already is only told again: that needs none."""
        refused = "" if approval is None else refusal_of(approval, user.user_id, digest, time.time())
        if approval is not None and not refused:
            step = replace(step, approval_id=approval.approval_id)
        async with self._sessions.open(user, call_id) as session:
            if await repository.has_ended(session, user, step):
                return step
            if step.approval_id:
                if not await repository.approval_used_elsewhere(session, user, step):
                    return step
                refused, step = "USED", replace(step, approval_id="")
        raise await self._asked_again(user, call_id, step, digest, refused)

    async def consent_used(self, user: UserContext, call_id: str, call: Admitted) -> CarrelError:
        """What an admitted call is told whose consent another step has used in the same moment."""
        step = replace(call.step, approval_id="")
        return await self._asked_again(user, call_id, step, digest_of(step.tool, call.arguments), "USED")

    async def _asked_again(self, user: UserContext, call_id: str, step: Step, digest: str, refused: str) -> CarrelError:
        error = approval_required(step.tool, digest, self._approval_seconds, refused)
        await self._refuse(user, call_id, step, error)
        return error

    async def _refuse(self, user: UserContext, call_id: str, step: Step, error: CarrelError) -> None:
        async with self._sessions.open(user, call_id) as session:
            await repository.record_decision(session, user, step, Outcome.DENIED, error.reason, error.message)


def _step(
    user: UserContext,
    asked: Asked,
    decision: Decision,
    arguments_sha256: str = "",
    repeat: Repeat = Repeat.AT_MOST_ONCE,
) -> Step:
    return Step(
        run_id=user.run_id,
        step_id=asked.step_id,
        attempt=user.attempt,
        tool=asked.tool,
        arguments_sha256=arguments_sha256,
        repeat=repeat,
        rule=decision.rule_id,
        policy_version=decision.policy_version,
    )


def repeat_of(tool: Tool) -> Repeat:
    """What may be done about a call of the tool that died."""
    if tool.idempotent:
        return Repeat.IDEMPOTENT
    return Repeat.VERIFY if tool.verifies else Repeat.AT_MOST_ONCE
