#!/usr/bin/env bash
# Writes .env with fresh secrets, unless it is there. Nothing is baked into an image.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -s .env ] && exit 0
umask 077
secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
cat > .env <<END
POSTGRES_PASSWORD=$(secret | tr -d '=')
FERNET_KEY=$(secret)
SECRET_KEY=$(secret)
JWT_SECRET=$(secret)$(secret)
ADMIN_PASSWORD=$(secret | tr -d '=-' | head -c 12)
END
echo "wrote .env: log in as admin with ADMIN_PASSWORD"
