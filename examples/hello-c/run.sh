#!/usr/bin/env bash
# Builds the example and runs what comes out. The base image is made once, from Debian's packages, by mmdebstrap.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
base=$target/example-base
out=$target/example-out
dcbuild=${DCBUILD:-$target/debug/dcbuild}

cd "$root"
[ -n "${DCBUILD:-}" ] || cargo build --quiet --package dcbuild
cargo xtask base-image "$base"
"$dcbuild" build --build-context "debian-gcc=oci-layout://$base" --output "type=local,dest=$out" "$here"
"$out/hello" "${1:-dcbuild}"
