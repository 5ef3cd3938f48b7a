"""What an answer to a run may be: the schema it must match, the consent that a call of a tool needs. It knows no wire and no database."""

from __future__ import annotations

from collections.abc import Mapping

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from carrel.agent import JSON, AgentError, ToolError
from carrel.replay import Answered, WaitState
from carrel_chassis.errors import CarrelError, Kind
from carrel_execution.domain import clean, from_json, to_json
from carrel_execution.json_schema import faults

MAX_ANSWER_BYTES = 256 * 1024
_MAX_SCHEMA_BYTES = 64 * 1024
_CONSENT_SECONDS = 600.0


def checked_schema(schema: Mapping[str, JSON] | None) -> str:
    """The schema as JSON, "" for none; raises AgentError when no answer could be checked against it."""
    if schema is None:
        return ""
    try:
        text = to_json(dict(schema))
        Draft202012Validator.check_schema(from_json(text))
    except (ValueError, SchemaError) as error:
        message = f"The schema of the answer is no JSON Schema: {clean(getattr(error, 'message', error), 200)}."
        raise AgentError("SCHEMA_INVALID", message) from None
    if (size := len(text.encode())) > _MAX_SCHEMA_BYTES:
        raise AgentError("TOO_LARGE", f"The schema of the answer has {size} bytes; it may have {_MAX_SCHEMA_BYTES}.")
    return text


def checked_answer(answer_json: str, schema_json: str) -> str:
    """The answer in compact JSON; INVALID_ARGUMENT names, by JSON path, what does not fit the schema."""
    if (size := len(answer_json.encode())) > MAX_ANSWER_BYTES:
        raise _invalid({"answer_json": f"answer_json has {size} bytes; it may have {MAX_ANSWER_BYTES}."})
    try:
        answer = from_json(answer_json)
        text = to_json(answer)
    except ValueError:
        raise _invalid({"answer_json": "answer_json is no JSON value."}) from None
    if schema_json:
        try:
            found = faults("answer_json", answer, from_json(schema_json))
        except ValueError:
            message = "The schema of this question cannot be used; tell the agent's author."
            raise _invalid({"answer_json": message}) from None
        if found:
            raise _invalid(found)
    return text


def _invalid(fields: Mapping[str, str]) -> CarrelError:
    message = "; ".join(f"{field}: {fault}" for field, fault in fields.items())
    return CarrelError(Kind.INVALID, "INVALID_ARGUMENT", message, metadata={"field": "answer_json"}, fields=fields)


def check_consent(wait: Answered, tool: str) -> None:
    """Raises ToolError unless the user has consented to the call of the tool."""
    if wait.state is WaitState.DENIED:
        raise ToolError("APPROVAL_DENIED", f"Your user does not want {tool} to be called.")
    if wait.state is not WaitState.RESOLVED:
        raise ToolError("APPROVAL_EXPIRED", f"Nobody has consented in time to the call of {tool}.")


def consent_until(wait: Answered) -> float:
    """Until when a consent may be used, in seconds since the epoch: as long as it could be given, and long enough for a run to go on."""
    return max(wait.expire_time, wait.resolve_time + _CONSENT_SECONDS)
