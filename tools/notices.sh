#!/usr/bin/env bash
# Writes NOTICE: the licences of every module that is linked into the binary
# for any system we promise.
set -euo pipefail
cd "$(dirname "$0")/.."
mods=$(for t in linux/amd64 windows/amd64; do
	CGO_ENABLED=0 GOOS=${t%/*} GOARCH=${t#*/} go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/kassett
done | sort -u)
{
	echo "Kassett"
	echo "Licensed under the Apache License, Version 2.0; see LICENSE."
	echo
	echo "The binary links Go's standard library and the modules below, under these licences."
	print() { # title, folder of the licence
		printf '\n%s\n%s\n\n' "----------------------------------------------------------------" "$1"
		cat "$(find "$2" -maxdepth 1 -iname 'LICEN[SC]E*' | sort | head -1)"
	}
	print "Go standard library" "$(go env GOROOT)"
	while read -r path version dir; do
		[ -n "$path" ] && print "$path $version" "$dir"
	done <<<"$mods"
} >NOTICE
echo "NOTICE: $(grep -c '^-----' NOTICE) licences"
