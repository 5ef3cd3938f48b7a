#!/usr/bin/env bash
# Load from outside: 500 runs, started by 8 callers. Needs ghz (https://ghz.sh) and CARREL_TOKEN; see README.md in this folder.
set -euo pipefail

cd "$(dirname "$0")/.."
ghz --insecure \
  --import-paths protos --proto carrel/api/gateway/v1/gateway_service.proto \
  --call carrel.api.gateway.v1.GatewayService.StartRun \
  --metadata "{\"authorization\": \"Bearer ${CARREL_TOKEN:?set it as README.md says}\"}" \
  --data '{"request_id": "ghz-{{newUUID}}", "agent": "echo", "input_json": "{\"text\": \"hello\"}"}' \
  --total 500 --concurrency 8 \
  "${CARREL_ADDRESS:-127.0.0.1:7400}"
