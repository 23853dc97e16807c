#!/usr/bin/env bash
# Makes the cluster and the user at the first start, then serves.
set -euo pipefail
bin=$(dirname "$(find /usr/lib/postgresql -name initdb | head -1)")
data=/var/lib/postgresql/data/cluster
sockets="-c unix_socket_directories=/tmp"
if [ ! -s "$data/PG_VERSION" ]; then
  # A minimal system has no locale but C, whose encoding would refuse every letter beyond ASCII.
  "$bin/initdb" -D "$data" -U "$POSTGRES_USER" --encoding=UTF8 --locale=C.UTF-8 --auth-host=scram-sha-256 --auth-local=trust \
    --pwfile=<(printf '%s' "$POSTGRES_PASSWORD") >/dev/null
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  "$bin/pg_ctl" -D "$data" -o "-c listen_addresses='' $sockets" -w start >/dev/null
  "$bin/createdb" -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB"
  "$bin/pg_ctl" -D "$data" -w stop >/dev/null
fi
# A scheduler that is killed may leave its transaction open (its workers inherit the connection, or
# its machine is gone without a word): the rows of its runs would be locked, and the nights stand still.
lost="-c idle_in_transaction_session_timeout=60s -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10"
# shellcheck disable=SC2086
exec "$bin/postgres" -D "$data" -c listen_addresses='*' $sockets $lost
