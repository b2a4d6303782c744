#!/usr/bin/env bash
# Builds the S3 server of the tests, versitygw as tools/s3server/go.mod pins it,
# into the user's cache folder, unless that very version is there. Prints its
# path. Tests and benchmarks look for it at the same place.
set -euo pipefail
cd "$(dirname "$0")/s3server"
version=$(go list -m -f '{{.Version}}' github.com/versity/versitygw)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/kassett-tools
server=$folder/versitygw-$version
if [ ! -x "$server" ]; then
	mkdir -p "$folder"
	echo "s3server: building versitygw $version, this takes a few minutes once" >&2
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$server.$$" github.com/versity/versitygw/cmd/versitygw
	mv "$server.$$" "$server"
fi
echo "$server"
