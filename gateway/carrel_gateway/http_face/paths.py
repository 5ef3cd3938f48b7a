"""Every operation of /v1, in one place. The application's routes are made from this, and the OpenAPI document is written from it."""

from __future__ import annotations

from carrel_gateway.http_face import reading
from carrel_gateway.http_face.api import Api
from carrel_gateway.http_face.operation import Operation

_STATE = {"states": "state"}
_NO_INPUT: dict[str, dict[str, str]] = {"input": {}}
_TENANT = "/v1/admin/tenants/{tenant_id}"
_USER = f"{_TENANT}/users/{{user_id}}"

RUNS = (
    Operation(
        "POST",
        "/v1/runs",
        "StartRun",
        "Accepts a run; the same `request_id` or Idempotency-Key again gives the same run.",
        answer="run",
        status=201,
        required=("agent",),
        defaults=_NO_INPUT,
    ),
    Operation("GET", "/v1/runs", "ListRuns", "The runs, newest first, by page.", renamed=_STATE),
    Operation("GET", "/v1/runs/{run_id}", "GetRun", "A run with its input and result.", answer="run"),
    Operation("POST", "/v1/runs/{run_id}/cancel", "CancelRun", "Asks a run to stop and says what has stopped."),
    Operation(
        "POST", "/v1/runs/{run_id}/repeat", "RepeatRun", "Starts a run that has ended once more.", "run", status=201
    ),
    Operation("GET", "/v1/runs/{run_id}/steps", "ListSteps", "The journal of a run, by page."),
    Operation("GET", "/v1/runs/{run_id}/state", "GetRunState", "What is known of a run now, from its events."),
    Operation(
        "GET",
        "/v1/runs/{run_id}/events",
        "WatchRun",
        "The events of one run as server-sent events until the final one.",
        own=Api.watch_run,
        own_query=reading.AfterQuery,
        streams=True,
    ),
    Operation("GET", "/v1/waits", "ListWaits", "What the runs wait for, oldest first, by page.", renamed=_STATE),
    Operation("POST", "/v1/waits/{wait_id}/resolve", "ResolveWait", "Answers a wait; the run goes on.", answer="wait"),
    Operation("GET", "/v1/statistics", "GetRunStatistics", "How the runs ended, by agent."),
)
SCHEDULES = (
    Operation(
        "POST",
        "/v1/schedules",
        "CreateSchedule",
        "Makes a schedule; the same `request_id` or Idempotency-Key again gives the same one.",
        answer="schedule",
        status=201,
        required=("cron", "agent"),
        defaults=_NO_INPUT,
    ),
    Operation("GET", "/v1/schedules", "ListSchedules", "The schedules, newest first, by page."),
    Operation("GET", "/v1/schedules/{schedule_id}", "GetSchedule", "A schedule.", answer="schedule"),
    Operation(
        "PATCH",
        "/v1/schedules/{schedule_id}",
        "PauseSchedule",
        "Pauses a schedule, or lets it go on.",
        answer="schedule",
        required=("paused",),
    ),
    Operation("DELETE", "/v1/schedules/{schedule_id}", "DeleteSchedule", "Deletes a schedule; its runs go on."),
)
EVENTS = (
    Operation(
        "GET",
        "/v1/events",
        "Subscribe",
        "The events after `Last-Event-ID` or `after`, then live, as server-sent events without end.",
        own=Api.subscribe,
        own_query=reading.EventsQuery,
        streams=True,
    ),
    Operation(
        "GET",
        "/v1/events/page",
        "ListEvents",
        "A page of events after `after`; `next` is the `after` of the next page.",
        own=Api.list_events,
        own_query=reading.EventPageQuery,
        with_next=True,
    ),
)
THREADS = (
    Operation(
        "POST",
        "/v1/threads",
        "CreateThread",
        "A new thread; the same `request_id` or Idempotency-Key again gives the same thread.",
        answer="thread",
        status=201,
    ),
    Operation("GET", "/v1/threads", "ListThreads", "The threads, newest first, by page."),
    Operation("GET", "/v1/threads/{thread_id}", "GetThread", "A thread.", answer="thread"),
    Operation(
        "PATCH",
        "/v1/threads/{thread_id}",
        "RenameThread",
        "Gives a thread another title.",
        answer="thread",
        required=("title",),
    ),
    Operation("DELETE", "/v1/threads/{thread_id}", "DeleteThread", "Takes a thread off the list; its runs stay."),
)
TOOLS = (
    Operation("GET", "/v1/corpora", "ListCorpora", "The corpora by name, by page."),
    Operation("GET", "/v1/corpora/{name}", "GetCorpus", "What is known of a corpus.", answer="corpus"),
    Operation(
        "PUT",
        "/v1/corpora/{name}",
        "UploadCorpus",
        "Stores the body, a file, under the name; it is passed on as it comes.",
        answer="corpus",
        own=Api.upload_corpus,
        own_query=reading.UploadQuery,
        uploads=True,
    ),
    Operation(
        "GET",
        "/v1/corpora/{name}/content",
        "DownloadCorpus",
        "The bytes of a corpus, from `offset` on.",
        own=Api.download_corpus,
        own_query=reading.DownloadQuery,
        downloads=True,
    ),
    Operation("GET", "/v1/uploads/{upload_id}", "GetUpload", "How much of an upload has been kept."),
    Operation("DELETE", "/v1/corpora", "EraseCorpora", "Erases all corpora and the key that they are encrypted under."),
    Operation("DELETE", "/v1/corpora/{name}", "DeleteCorpus", "Deletes a corpus and its bytes."),
    Operation("GET", "/v1/agents", "ListAgents", "The agents that can be started."),
    Operation("GET", "/v1/tools", "ListTools", "The tools that the user's agents may use now."),
    Operation("GET", "/v1/tools/{tool}", "GetTool", "A tool, if the user may use it now.", answer="tool"),
    Operation(
        "GET", "/v1/tool-decisions", "ListToolDecisions", "What was decided on tool calls, newest first, by page."
    ),
    Operation("GET", "/v1/tool-calls", "ListToolCalls", "The tool calls, newest first, by page."),
    Operation(
        "POST",
        "/v1/tool-calls/{tool_call_id}/cancel",
        "CancelTool",
        "Stops a tool call and says whether it has stopped.",
    ),
)
SESSIONS = (
    Operation("GET", "/v1/sessions", "ListSessions", "The sessions, newest first, by page."),
    Operation("DELETE", "/v1/sessions/{session_id}", "EndSession", "Ends a session within 2 seconds."),
)
ADMIN = (
    Operation("GET", "/v1/admin/tenants", "ListTenants", "The tenants by id, by page."),
    Operation("PUT", _TENANT, "CreateTenant", "Enters a tenant.", answer="tenant"),
    Operation("GET", f"{_TENANT}/users", "ListUsers", "The users of a tenant by id, by page."),
    Operation(
        "POST",
        f"{_TENANT}/users",
        "CreateUser",
        "Enters a user with a role.",
        answer="user",
        status=201,
        required=("user_id",),
    ),
    Operation("GET", _USER, "GetUser", "A user with what the user may do now.", answer="user"),
    Operation("PATCH", _USER, "UpdateUser", "Changes role, grants, removals or state of a user.", answer="user"),
    Operation("GET", f"{_USER}/api-keys", "ListApiKeys", "The API keys of a user, without their secrets."),
    Operation(
        "POST", f"{_USER}/api-keys", "CreateApiKey", "A new API key; its secret is in this answer only.", status=201
    ),
    Operation("DELETE", f"{_USER}/api-keys/{{api_key_id}}", "RevokeApiKey", "Revokes an API key.", answer="api_key"),
    Operation("GET", f"{_TENANT}/limits", "GetLimits", "The limits of a tenant, or of the user that the query names."),
    Operation(
        "PUT",
        f"{_TENANT}/limits",
        "SetLimits",
        "Sets all limits of a tenant, or of the user that the body names.",
        required=("limits",),
    ),
    Operation(
        "POST",
        f"{_USER}/revocations",
        "Revoke",
        "Revokes a user, a session, a run or a scope.",
        answer="revocation",
        required=("kind",),
    ),
    Operation(
        "POST",
        f"{_USER}/revocations/lift",
        "Restore",
        "Lifts a revocation.",
        answer="revocation",
        required=("kind",),
    ),
    Operation(
        "POST",
        "/v1/admin/contexts/inspect",
        "InspectContext",
        "Says for each check of a context how it went.",
        required=("signed_context",),
    ),
    Operation("POST", "/v1/admin/signing-keys", "RotateSigningKeys", "Makes and announces a new signing key.", "key"),
    Operation("GET", "/v1/admin/services", "ListServiceIdentities", "The services that may prove who they are."),
    Operation("GET", "/v1/admin/statistics", "GetOverallRunStatistics", "How the runs of everybody ended, by agent."),
    Operation("GET", "/v1/admin/worker", "InspectWorker", "One process that works on runs.", answer="worker"),
    Operation("GET", "/v1/admin/tool-policy", "GetToolPolicy", "The rules of the tenant for tools.", answer="policy"),
    Operation(
        "PUT",
        "/v1/admin/tool-policy",
        "SetToolPolicy",
        "Replaces the rules of the tenant for tools.",
        answer="policy",
        required=("expected_version",),
    ),
    Operation(
        "POST",
        "/v1/admin/tool-policy/test",
        "TestToolPolicy",
        "Says what would be decided if a user called a tool.",
        required=("user_id", "tool"),
    ),
    Operation(
        "GET", "/v1/admin/tool-decisions", "ListTenantToolDecisions", "What was decided in the tenant, newest first."
    ),
)
OPERATIONS = (*RUNS, *SCHEDULES, *EVENTS, *THREADS, *TOOLS, *SESSIONS, *ADMIN)
