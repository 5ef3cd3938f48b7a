"""Whether a run that has failed begins again. It knows no clock and no database."""

from __future__ import annotations

from carrel.agent import Agent, AgentError, Retry


def retry_of(agent: type[Agent], failure: Exception, retries: int) -> Retry | None:
    """The policy by which a run is tried again after this failure of its agent; None when it has failed for good.

    `retries` is how often that has happened already. An agent without a policy is tried again only where its error says so.
    """
    retryable = isinstance(failure, AgentError) and failure.retryable
    policy = agent.retry or (Retry() if retryable else None)
    if policy is None or retries + 1 >= policy.attempts:
        return None
    reason = failure.reason if isinstance(failure, AgentError) else "AGENT_CRASHED"
    return policy if retryable or not policy.reasons or reason in policy.reasons else None
