#!/usr/bin/env bash
# Runs every fuzzer for FUZZTIME (default 5 s) from its seeds. What one finds is
# written to the package's testdata/fuzz and stays there as a seed.
set -euo pipefail
cd "$(dirname "$0")/.."

for pkg in $(go list ./internal/...); do
  for name in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
    echo "   ${pkg#viaduct/} $name"
    out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-5s}" "$pkg" 2>&1) || { echo "$out"; exit 1; }
  done
done
