#!/usr/bin/env bash
# Builds the example with Debian's own Go and runs what comes out. The base image is made once, by mmdebstrap.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
base=$target/example-base-go
out=$target/example-out-go
dcbuild=${DCBUILD:-$target/debug/dcbuild}

cd "$root"
[ -n "${DCBUILD:-}" ] || cargo build --quiet --package dcbuild
DCBUILD=$dcbuild examples/base.sh "$base" golang-go
"$dcbuild" build --build-context "golang:1.24=oci-layout://$base" --output "type=local,dest=$out" "$here"
"$out/bin/hello"
