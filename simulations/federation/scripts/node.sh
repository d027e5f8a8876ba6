#!/bin/sh
# One user's device: Flower's SuperNode. user/ is read, store/ is where it keeps what is its own.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
trap 'kill "$node" 2>/dev/null; exit 0' INT TERM
# A node that was killed counts as connected until it has missed two heartbeats, a minute: it is started again meanwhile.
while :; do
    flower-supernode \
        --superlink {{ address }} --root-certificates ca.crt --auth-supernode-private-key node.key \
        --node-config "partition-id={{ partition }} data=\"$PWD/user\" store=\"$PWD/store\"" \
        --port {{ port }} &
    node=$!
    wait "$node" && exit 0
    sleep 5
done
