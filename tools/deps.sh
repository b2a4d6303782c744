#!/usr/bin/env bash
# Installs what tests and benchmarks need beside Go: peers that judge our
# repositories, and programs that set and read what a backup must keep; and
# builds the S3 server of the tests.
# Says what it installs; changes nothing when all is there.
# usage: tools/deps.sh [windows]      windows: also what runs Windows programs
set -euo pipefail

# command:package
need=(
	restic:restic          # reads and writes the same repositories
	borg:borgbackup        # a peer in the benchmark
	setfacl:acl            # access lists, kept by backups
	setfattr:attr          # extended attributes, kept by backups
	mkfs.ext4:e2fsprogs    # a fresh file system for each timed restore
	sshd:openssh-server    # the SFTP server of the tests; it is not started
	ssh:openssh-client     # the way to it
	par2:par2              # repairs by our parity files, and makes such
	fusermount3:fuse3      # by which users mount, and unmount
	curl:curl              # reads what is served over WebDAV
	script:bsdutils        # a terminal for the progress display
)
if [ "${1:-}" = windows ]; then
	need+=(wine64:wine64 x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64-win32)
fi
if [ "${1:-}" != windows ]; then
	if [ "${SHORT:-}" = 1 ]; then
		echo "deps: SHORT=1, left out: the S3 server"
	else
		echo "deps: S3 server: $("$(dirname "$0")/s3server.sh")"
	fi
fi
missing=()
for n in "${need[@]}"; do
	PATH=$PATH:/usr/sbin:/sbin:/usr/lib/wine command -v "${n%%:*}" >/dev/null || missing+=("${n##*:}")
done
if [ ${#missing[@]} -eq 0 ]; then
	echo "deps: all there: ${need[*]%%:*}"
	exit 0
fi
if [ "${SHORT:-}" = 1 ]; then
	echo "deps: SHORT=1, left out: ${missing[*]}"
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	echo "deps: missing: ${missing[*]}; install them, or set SHORT=1 to leave their tests out" >&2
	exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || { echo "deps: missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2; exit 1; }
	as_root=(sudo)
fi
echo "deps: installing with apt-get: ${missing[*]}"
# A server that is installed for tests must not begin to serve.
policy=/usr/sbin/policy-rc.d
if [[ " ${missing[*]} " == *" openssh-server "* && ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
	"${as_root[@]}" chmod +x $policy
	trap '"${as_root[@]}" rm -f $policy' EXIT
fi
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "deps: installed"
