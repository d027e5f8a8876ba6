#!/bin/sh
# One user's device: Flower's SuperNode. user/ is read, store/ is where it keeps what is its own; neither leaves it.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
# A node that was killed counts as connected until it has missed two heartbeats, a minute: it is started again meanwhile.
left=20
until flower-supernode \
    --superlink {{ address }} --root-certificates ca.crt --auth-supernode-private-key node.key \
    --node-config "partition-id={{ partition }} data=\"$PWD/user\" store=\"$PWD/store\"" \
    --port {{ port }}; do
    left=$((left - 1))
    [ $left -gt 0 ] || exit 1
    sleep 5
done
