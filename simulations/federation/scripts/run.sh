#!/bin/sh
# One run: register new SuperNode keys, then submit. The record is written to results/; fails if the run fails.
cd "$(dirname "$0")" || exit 1
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
mkdir -p flwr
printf '[superlink]\ndefault = "server"\n[superlink.server]\naddress = "%s"\nroot-certificates = "%s"\n' \
    "${SUPERLINK_ADDRESS:-{{ address }}}" "$PWD/ca.crt" > flwr/config.toml
for key in keys/*.pub; do
    [ -e "$key.registered" ] && continue
    said=$(flwr supernode register "$key" server --format json 2>&1)
    node=$(echo "$said" | sed -n 's/.*"node-id": *"\{0,1\}\([0-9]\{1,\}\).*/\1/p')
    if [ -z "$node" ]; then
        echo "run.sh: $key cannot be registered: $said" >&2
        exit 1
    fi
    # The server compares: no device may claim another's partition.
    echo "$node" > "$key.registered"
done
before=" $(ls -d results/run-*/ 2>/dev/null | tr '\n' ' ')"
flwr run app server --stream || exit 1
# Flower's exit status only says that the run was submitted.
new=""
for record in results/run-*/; do
    case "$before" in *" $record "*) ;; *) new="$record" ;; esac
done
if [ ! -f "${new}run.json" ]; then
    echo "run.sh: this run left no record in results/" >&2
    exit 1
fi
grep -q '"status": "completed"' "${new}run.json"
