#!/bin/sh
# One user's device: a Flower SuperNode. It reads user/ and keeps its private state in store/.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
trap 'kill "$node" 2>/dev/null; exit 0' INT TERM
# A killed node counts as connected until it has missed two heartbeats (a minute), so restart it until it is accepted.
while :; do
    flower-supernode \
        --superlink {{ address }} --root-certificates ca.crt --auth-supernode-private-key node.key \
        --node-config "partition-id={{ partition }} data=\"$PWD/user\" store=\"$PWD/store\"" \
        --port {{ port }} &
    node=$!
    wait "$node" && exit 0
    sleep 5
done
