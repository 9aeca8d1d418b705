#!/usr/bin/env bash
# base.sh FOLDER [PACKAGE...]: makes a Debian with these packages (gcc and libc6-dev where none is named) as an OCI
# layout, from this machine's own package sources, unless the folder holds one. mmdebstrap makes the files and dcbuild
# the image: $DCBUILD, or the one on the path.
set -euo pipefail
folder=${1:?'say which folder is to hold the image, as in base.sh target/example-base'}
shift
(($#)) || set -- gcc libc6-dev
dcbuild=${DCBUILD:-dcbuild}

if [ -e "$folder/index.json" ]; then
    echo "$folder is there already"
    exit
fi
if ! command -v mmdebstrap >/dev/null; then
    echo "== installing mmdebstrap with apt-get: it makes the base image, a Debian with $*"
    apt-get update --quiet
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends mmdebstrap
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "== making a Debian with $*: a minute or two"
packages=$(IFS=,; echo "$*")
mmdebstrap --quiet --variant=essential --include="$packages" --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/{doc,man,locale,info}/*' bookworm "$work/root.tar"
mkdir -p "$(dirname "$folder")"
DCBUILD_STATE_DIR=$work/state "$dcbuild" build --quiet --file - \
    --output "type=oci,tar=false,compression=zstd,dest=$folder" "$work" <<'DOCKERFILE'
FROM scratch
ADD root.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["bash"]
DOCKERFILE
echo "$folder holds it"
