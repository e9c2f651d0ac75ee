#!/usr/bin/env bash
# Runs every fuzzer for FUZZTIME from its seeds: so many inputs (50000x) or so long
# (10m). The default is a number, since go reports a fuzzer whose time ends while
# it minimizes an input as failed (context deadline exceeded). What one finds is
# written to the package's testdata/fuzz and stays there as a seed.
set -euo pipefail
cd "$(dirname "$0")/.."

for pkg in $(go list ./internal/...); do
  for name in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
    echo "   ${pkg#viaduct/} $name"
    out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-50000x}" "$pkg" 2>&1) || { echo "$out"; exit 1; }
  done
done
