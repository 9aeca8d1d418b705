#!/usr/bin/env bash
# Builds the example on this machine, runs what comes out, builds it again from the cache, and then does the same on a
# cluster of one coordinator and two workers. Needs root: a RUN gets namespaces of its own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
base=$target/example-base
out=$target/example-out
dcbuild=${DCBUILD:-$target/debug/dcbuild}
cd "$root"

if [ -z "${DCBUILD:-}" ]; then
    echo "== building dcbuild"
    cargo build --quiet --package dcbuild
fi
DCBUILD=$dcbuild examples/base.sh "$base"
context=(--build-context "debian-gcc=oci-layout://$base")

echo "== on this machine"
"$dcbuild" build "${context[@]}" --output "type=local,dest=$out/local" "$here"
"$out/local/hello" "${1:-dcbuild}"

echo "== again: everything is a hit"
"$dcbuild" build "${context[@]}" --output "type=local,dest=$out/local" "$here"

echo "== on a cluster of one coordinator and two workers"
state=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$state"
}
trap stop EXIT
port=${DCBUILD_EXAMPLE_PORT:-7970}
"$dcbuild" coordinator --listen "127.0.0.1:$port" --http-listen "127.0.0.1:$((port + 1))" \
    --data-dir "$state/coordinator" --store "dir:$state/store" 2>"$state/coordinator.log" &
pids+=($!)
for worker in 1 2; do
    "$dcbuild" worker --coordinator "http://127.0.0.1:$port" --data-dir "$state/worker-$worker" --slots 2 \
        2>"$state/worker-$worker.log" &
    pids+=($!)
done
export DCBUILD_COORDINATOR=http://127.0.0.1:$port
"$dcbuild" submit "${context[@]}" --output "type=local,dest=$out/cluster" "$here"
"$out/cluster/hello" "${1:-dcbuild}, built on a cluster"
"$dcbuild" ps -a
