#!/usr/bin/env bash
# Once per start, before Airflow: the database's schema, and the password of the only user.
set -euo pipefail
umask 077
printf '{"admin": "%s"}\n' "$ADMIN_PASSWORD" > /data/airflow/passwords.json
airflow db migrate
