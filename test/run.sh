#!/usr/bin/env bash
# Runs all tests: `make test`. Each stage says how long it took.
set -euo pipefail
cd "$(dirname "$0")/.."

stage() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  if ! "$@"; then
    echo "== $name FAILED after $((SECONDS - start)) s"
    exit 1
  fi
  echo "== $name passed in $((SECONDS - start)) s"
}

formatted() {
  local bad
  bad=$(git ls-files '*.go' | xargs gofmt -l)
  [ -z "$bad" ] || { echo "gofmt differs: $bad"; return 1; }
}

unchanged() {
  local after
  after=$(git status --porcelain 2>/dev/null || true)
  [ "$after" = "$before" ] || { echo "the tests changed tracked files:"; echo "$after"; return 1; }
}

# Every fuzzer runs briefly from its seeds.
fuzz() {
  local pkg name
  for pkg in $(go list ./internal/...); do
    for name in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
      echo "   $pkg $name"
      go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-5s}" "$pkg" >/tmp/fuzz.$$ 2>&1 ||
        { cat /tmp/fuzz.$$; rm -f /tmp/fuzz.$$; return 1; }
    done
  done
  rm -f /tmp/fuzz.$$
}

before=$(git status --porcelain 2>/dev/null || true)
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0

stage "dependencies" test/deps.sh
stage "build" make build
stage "gofmt" formatted
stage "vet" go vet ./...
stage "staticcheck" go run "$staticcheck" ./...
stage "packages, with the race detector" go test -race -timeout 10m ./internal/... ./cmd/...
stage "lanes: namespaces, real clients, faults, virtual machine" go test -timeout 30m ./test/...
stage "demo" make demo
stage "fuzzers" fuzz
stage "nothing left behind in the tree" unchanged
