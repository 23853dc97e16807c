#!/usr/bin/env bash
# Runs a command; with the emulators' settings, trusting the certificate that Dataflow's emulator shows.
set -euo pipefail
if [ "${NIGHTBID_SETTINGS:-}" = /app/compose/emulated.yaml ]; then
  export GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=/tmp/dataflow.pem
  for _ in $(seq 120); do
    python3 -c 'import ssl; print(ssl.get_server_certificate(("dataflow", 9026), timeout=5))' \
      > "$GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" 2>/dev/null && break
    sleep 1
  done
  if [ ! -s "$GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" ]; then
    echo "start: dataflow:9026 shows no certificate, jobs cannot be submitted → docker compose logs dataflow" >&2
  fi
fi
exec "$@"
