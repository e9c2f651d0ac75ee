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

before=$(git status --porcelain 2>/dev/null || true)
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0

stage "dependencies" test/deps.sh
stage "build" make build
stage "gofmt" formatted
stage "vet" go vet ./...
stage "staticcheck" go run "$staticcheck" ./...
stage "packages, with the race detector" go test -race -timeout 10m ./internal/... ./cmd/...
stage "lanes: namespaces, real clients, faults, virtual machine, Xen" go test -count=1 -p 1 -timeout 40m ./test/...
stage "demo" make demo
stage "fuzzers" test/fuzz.sh
stage "nothing left behind in the tree" unchanged
