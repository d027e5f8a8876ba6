#!/bin/sh
# One run: register the SuperNodes' keys that are not yet, then submit. The record goes to results/.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
for key in keys/*.pub; do
    [ -e "$key.registered" ] && continue
    flwr supernode register "$key" server && touch "$key.registered"
done
exec flwr run app server --stream
