# Viaduct. `make build` needs Go and nothing else.

PREFIX  ?= /usr/local
DESTDIR ?=

bindir      = $(PREFIX)/bin
mandir      = $(PREFIX)/share/man/man1
unitdir     = $(PREFIX)/lib/systemd/system
sysusersdir = $(PREFIX)/lib/sysusers.d
bashdir     = $(PREFIX)/share/bash-completion/completions
zshdir      = $(PREFIX)/share/zsh/site-functions
fishdir     = $(PREFIX)/share/fish/vendor_completions.d

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unreleased)

.PHONY: build install demo test test-xen fuzz soak bench clean

# A static binary that is the same wherever it is built, and beside it Xen's
# hotplug script, which it is too, as a program that starts faster.
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-X viaduct/internal/cli.version=$(VERSION)' -o bin/viaduct ./cmd/viaduct
	CGO_ENABLED=0 go build -trimpath -o bin/viaduct-vif ./cmd/viaduct-vif

bin/viaduct: go.mod $(shell find cmd internal -name '*.go' ! -name '*_test.go')
	$(MAKE) build

# Installs what `make build` made, since sudo often finds no Go. Manual pages and
# completions come out of the binary, so that they cannot differ from it.
install: bin/viaduct
	install -Dm755 bin/viaduct $(DESTDIR)$(bindir)/viaduct
	install -m755 bin/viaduct-vif $(DESTDIR)$(bindir)/viaduct-vif
	ln -sf viaduct $(DESTDIR)$(bindir)/viaduct-bridge-helper
	install -d $(DESTDIR)$(mandir) $(DESTDIR)$(unitdir) $(DESTDIR)$(bashdir) $(DESTDIR)$(zshdir) $(DESTDIR)$(fishdir)
	bin/viaduct man-pages $(DESTDIR)$(mandir)
	sed 's|@bindir@|$(bindir)|' packaging/viaduct.service.in >$(DESTDIR)$(unitdir)/viaduct.service
	chmod 644 $(DESTDIR)$(unitdir)/viaduct.service
	install -m644 packaging/*.socket $(DESTDIR)$(unitdir)/
	install -Dm644 packaging/viaduct.sysusers $(DESTDIR)$(sysusersdir)/viaduct.conf
	bin/viaduct completion bash >$(DESTDIR)$(bashdir)/viaduct
	bin/viaduct completion zsh >$(DESTDIR)$(zshdir)/_viaduct
	bin/viaduct completion fish >$(DESTDIR)$(fishdir)/viaduct.fish
	chmod 644 $(DESTDIR)$(mandir)/viaduct*.1 $(DESTDIR)$(bashdir)/viaduct $(DESTDIR)$(zshdir)/_viaduct $(DESTDIR)$(fishdir)/viaduct.fish
	@[ -n '$(DESTDIR)' ] || echo "Now run: systemd-sysusers && systemctl daemon-reload && systemctl enable --now viaduct.socket viaduct.service"

# Two guests on a fresh network, in namespaces of their own.
demo: build
	go run ./test/demo bin/viaduct

test:
	test/run.sh

# Real Xen in an emulated machine, as part of the tests and alone.
test-xen:
	test/deps.sh
	go test -count=1 -v -timeout 20m ./test/xen

# All fuzzers, for FUZZTIME each: make fuzz FUZZTIME=10m
fuzz:
	test/fuzz.sh

# 200 clients of libvirt's protocol at once, a tenth of whose calls is malformed:
# make soak SOAK=1000000
SOAK ?= 100000
soak:
	go test ./test/libvirt -run '^TestSoak$$' -count=1 -v -timeout 60m -args -soak $(SOAK)

# Figures beside those of libvirt and of the bare kernel, see docs/benchmarks.md.
bench: build
	test/deps.sh
	go run ./test/bench -o docs/benchmarks.md bin/viaduct

clean:
	rm -rf bin
