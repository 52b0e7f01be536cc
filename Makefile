# make build  bin/fsban, a static program
# make run    build it and see it work, in namespaces of its own
# make test   install what the tests need, and run them all
# make check  test, and everything that reads the code for mistakes
# make dist   static binaries, archives, deb and rpm, for amd64 and arm64, into dist/
# make dashboard  write dashboards/fsban.json anew
# make pictures   draw the dashboard with a played attack, into docs/pictures (needs Node.js, npm and chromium; 6 minutes)
# make bench  how fast it reads, detects and decides, beside eslgo and beside reading and discarding
# make bench-kernel    what a ban costs, and what bans cost every packet, beside one rule a ban (2 to 3 minutes)
# make bench-growth    what a quiet day costs, and what costs more with more bans and addresses (10 minutes)
# make chaos  ten minutes of attacks and faults, drawn by seeds, against a daemon and a kernel (FOR=1h for longer)
# make soak   ten minutes of everything at once, at 20,000 events a second; then a flood under a memory limit (FOR=1h)
# make fuzz   each parser a minute with what nobody would write (EACH=10m for longer)
# make bench-fleet     nodes that share bans through Redis: how fast, and what it costs (2 minutes)
# make bench-fail2ban  fsban beside fail2ban: bans, lines, restarts, memory, idling (6 minutes; BESIDE="-rounds 5" for more)

# Debian keeps iptables and ipset where a user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

STATICCHECK  = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI     = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK  = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build run test check chaos soak fuzz dist dashboard pictures bench bench-fail2ban bench-fleet bench-growth bench-kernel
.PHONY: tools-run tools-test tools-pictures

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/fsban ./cmd/fsban

run: tools-run build
	bin/fsban demo

# One room after the other: each has real programs beside it, and they share the processors.
test: tools-test
	@fmt=$$(gofmt -l .); [ -z "$$fmt" ] || { echo "gofmt has to be run on:"; echo "$$fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) test -race -p 1 -timeout 15m ./...

check: test
	$(GO) mod verify
	$(STATICCHECK) ./...
	$(GOLANGCI) run ./...
	@out=$$($(GOVULNCHECK) ./... 2>&1); code=$$?; echo "$$out"; case "$$out" in \
		*"fetching vulnerabilities"*) echo "govulncheck: its database cannot be reached from here: not checked" ;; \
		*) exit $$code ;; esac

dist:
	GO="$(GO)" VERSION="$(VERSION)" packaging/dist.sh dist

dashboard:
	$(GO) test ./dashboards -run TestTheFileIsWhatTheCodeMakes -update

pictures: tools-test tools-pictures
	cd dashboards/pictures && npm ci --no-audit --no-fund && npm run build
	$(GO) test -count=1 -timeout 30m -tags pictures -run TestPictures ./dashboards

bench:
	$(GO) test -run '^$$' -bench . -skip 'Fleet|Packet' -benchmem ./esl ./ctilog ./detect ./policy ./firewall ./ledger ./daemon

bench-fleet: tools-test
	$(GO) test -run '^$$' -bench 'Fleet' -benchtime 1x ./daemon
	$(GO) test -run '^$$' -bench 'Nodes|Memory' -benchtime 1x ./fleet

FOR ?= 10m
chaos: tools-test
	$(GO) test -count=1 -timeout 0 -v -run 'TestChaos$$' ./daemon -chaos.for $(FOR)

soak: tools-test
	$(GO) test -count=1 -timeout 0 -v -run 'TestSoak$$|TestAnAttackerCannotFillTheMemory$$' ./daemon -soak.for $(FOR) -soak.rate 20000

EACH ?= 60s
fuzz:
	@grep -ro '^func Fuzz[A-Za-z]*' --include=*_test.go . | sort | sed 's|/[^/]*:func | |' | while read -r room target; do \
		out=$$($(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(EACH) "$$room" 2>&1); code=$$?; \
		[ $$code = 0 ] || { echo "$$out"; exit $$code; }; \
		echo "$$room $$target $$(echo "$$out" | grep -o 'execs: [0-9]*' | tail -n 1)"; done

bench-fail2ban: tools-test build
	@/usr/bin/python3 -c 'import pyinotify' 2>/dev/null || [ "$$(id -u)" != 0 ] || apt-get install -y -qq --no-install-recommends python3-pyinotify >/dev/null
	$(GO) run ./bench/beside -fsban bin/fsban $(BESIDE)

bench-kernel:
	bench/kernel.sh

bench-growth: tools-test
	$(GO) test -count=1 -timeout 1h -v -run 'TestIdle$$|TestGrowth$$' ./daemon -idle.for 1m -growth.to 1000000

# need TOOLS, PACKAGES, ELSE: install the packages when one of the tools is missing and we may; or say what to do, and do ELSE.
define need
	@missing=; for t in $(1); do command -v $$t >/dev/null 2>&1 || missing="$$missing $$t"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "installing $(2), for:$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; \
	else \
		echo "missing:$$missing. Install: $(2)"; $(3); \
	fi
endef

tools-run:
	$(call need,iptables ip6tables ipset,iptables ipset,true)

# Of fail2ban, Redis, Prometheus and Alertmanager the tests use the programs; their services are to stay off on a machine that
# did not have them.
tools-test:
	@if [ "$$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then \
		command -v fail2ban-server >/dev/null 2>&1 || systemctl mask -q fail2ban; \
		command -v redis-server >/dev/null 2>&1 || systemctl mask -q redis-server; \
		command -v prometheus >/dev/null 2>&1 || systemctl mask -q prometheus; \
		command -v prometheus-alertmanager >/dev/null 2>&1 || systemctl mask -q prometheus-alertmanager; fi
	$(call need,iptables ip6tables iptables-legacy ip6tables-legacy ipset nft setpriv gcc fail2ban-client fail2ban-server redis-server debootstrap rpm systemd-analyze shellcheck prometheus promtool prometheus-alertmanager,iptables ipset nftables util-linux gcc libc6-dev fail2ban redis-server debootstrap rpm systemd shellcheck prometheus prometheus-alertmanager,exit 1)

tools-pictures:
	$(call need,node npm chromium,nodejs npm chromium,exit 1)
