#!/bin/sh
# Runs the compiled Windows tests of packages under Debian's wine (make test-windows).
# usage: tools/wine-test.sh PACKAGE...
# Needs wine64 and gcc-mingw-w64-x86-64. What wine cannot prove is listed in
# docs/handbook/what-survives.md.
set -eu
wine=/usr/lib/wine/wine64
[ -x "$wine" ] || wine=$(command -v wine64 || command -v wine) || { echo "wine is missing: apt-get install wine64" >&2; exit 1; }
command -v x86_64-w64-mingw32-gcc >/dev/null || { echo "a compiler is missing: apt-get install gcc-mingw-w64-x86-64-win32" >&2; exit 1; }
scratch=$(mktemp -d)
export WINEPREFIX="$scratch/prefix" WINEDEBUG=-all WINE=1 SHORT=1
stop() {
	wineserver=$(command -v wineserver || echo /usr/lib/wine/wineserver64)
	"$wineserver" -k >/dev/null 2>&1 || true
	rm -rf "$scratch"
}
trap stop EXIT
"$wine" wineboot -i >/dev/null 2>&1 || true
# wine 8 lacks the one function that every Go program takes its random numbers from.
cat >"$scratch/prng.c" <<'C'
#include <stddef.h>
__declspec(dllimport) unsigned char __stdcall SystemFunction036(void *, unsigned long);
__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *p, size_t n) { return SystemFunction036(p, (unsigned long)n); }
C
x86_64-w64-mingw32-gcc -shared -O -o "$scratch/prefix/drive_c/windows/system32/bcryptprimitives.dll" "$scratch/prng.c" -ladvapi32
for package in "$@"; do
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 go test -c -o "$scratch/test.exe" "$package"
	echo "$package under wine:"
	(cd "$(go list -f '{{.Dir}}' "$package")" && timeout 300 "$wine" "$scratch/test.exe" ${WINE_TEST_FLAGS:-})
done
