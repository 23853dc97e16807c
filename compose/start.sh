#!/usr/bin/env bash
# Runs a command; with the emulators' settings, with Dataflow's emulator at this container's localhost.
set -euo pipefail
if [ "${NIGHTBID_SETTINGS:-}" = /app/compose/emulated.yaml ]; then
  python3 /app/compose/loopback.py 9024 dataflow 2>/dev/null &
fi
exec "$@"
