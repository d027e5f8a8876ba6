#!/bin/sh
# The server: a Flower SuperLink with TLS; it accepts only SuperNodes whose keys are registered.
# Anyone who can reach the port can register a key and submit code: start it with compose.yaml, or behind proxy.conf.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
rm -f keys/*.registered  # a new SuperLink has no registered keys
exec flower-superlink \
    --host "${SUPERLINK_HOST:-{{ bind }}}" --port "${SUPERLINK_PORT:-{{ port }}}" \
    --ssl-ca-certfile ca.crt --ssl-certfile server.crt --ssl-keyfile server.key \
    --enable-supernode-auth --disable-runtime-dependency-installation
