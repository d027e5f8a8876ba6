#!/bin/sh
# The server: Flower's SuperLink, with TLS; it takes SuperNodes whose keys are registered with it.
# Whoever reaches the port can register one: see docs/deployment.md before it is open to a network.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
rm -f keys/*.registered  # a new SuperLink knows nobody
exec flower-superlink \
    --host {{ bind }} --port {{ port }} \
    --ssl-ca-certfile ca.crt --ssl-certfile server.crt --ssl-keyfile server.key \
    --enable-supernode-auth --disable-runtime-dependency-installation
