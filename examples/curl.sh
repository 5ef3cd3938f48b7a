#!/usr/bin/env bash
# Starts a run with curl, follows it by server-sent events, breaks off, and goes on after the last event that came.
# Needs CARREL_TOKEN; see README.md in this folder.
set -euo pipefail

carrel=${CARREL_HTTP:-http://127.0.0.1:7401}
credential="authorization: Bearer ${CARREL_TOKEN:?set it as README.md says}"

# The same Idempotency-Key again gives the same run: safe to repeat when the answer was lost.
key="example-$$-$RANDOM$RANDOM"
run_id=$(curl --fail-with-body --silent --show-error "$carrel/v1/runs" \
  --header "$credential" --header "content-type: application/json" --header "idempotency-key: $key" \
  --data '{"agent": "echo", "input": {"text": "Hello, Carrel"}}' |
  sed -E 's/.*"run_id":"([^"]*)".*/\1/')
echo "started $run_id"

# --no-buffer shows each event as it comes. `grep` leaves after the first id, which is like a line that broke.
first=$(curl --no-buffer --silent "$carrel/v1/runs/$run_id/events" --header "$credential" | grep --max-count=1 '^id: ' || true)
last=${first#id: }
echo "seen until $last"

echo "the rest:"
curl --no-buffer --fail-with-body --silent --show-error "$carrel/v1/runs/$run_id/events" \
  --header "$credential" --header "last-event-id: $last"

echo "what a refusal looks like:"
curl --silent "$carrel/v1/runs/run-of-somebody-else" --header "$credential"
echo
