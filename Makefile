# make build  bin/fsban and bin/fsban-demo, static programs
# make run    build it and see it work, in namespaces of its own
# make test-fast  hermetic tests of all packages: no programs but Go and a shell (two minutes with a cold build cache)
# make test   install the programs that the tests need, and run all tests, with the race detector where goroutines run
# make test-load  short forms of chaos, soak and growth, with fixed seeds, on an idle machine (80 seconds)
# make lint   gofmt, go vet, staticcheck, golangci-lint and govulncheck
# make check  lint and test: CI runs it
# make dist   static binaries, archives, deb and rpm, for amd64 and arm64, into dist/
# make dashboard  write dashboards/fsban.json anew
# make pictures   draw the dashboard with a played attack, into docs/pictures (needs Node.js, npm and chromium; 6 minutes)
# make bench  how fast it reads, detects and decides, beside eslgo and beside reading and discarding
# make bench-kernel    what a ban costs, and what bans cost every packet, beside one rule a ban (2 to 3 minutes)
# make bench-growth    what a quiet day costs, and what costs more with more bans and addresses (10 minutes)
# make chaos  ten minutes of attacks and faults, drawn by seeds, against a daemon and a kernel (FOR=1h for longer); then eight changes from
#             each backend to each other one under attack (6 minutes)
# make soak   ten minutes of everything at once, at 20,000 events a second; then a flood under a memory limit (FOR=1h)
# make fuzz   long searches against the models of policy and of a fleet, then each fuzz target for a minute (EACH=10m for longer)
# make bench-fleet     nodes that share bans through Redis: how fast, and what it costs (2 minutes)
# make bench-fail2ban  fsban beside fail2ban: bans, lines, restarts, memory, idling (6 minutes; BESIDE="-rounds 5" for more)

# Debian keeps iptables and ipset where a user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

STATICCHECK  = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI     = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK  = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0
GOTESTSUM    = $(GO) run gotest.tools/gotestsum@v1.13.0 --format pkgname --hide-summary skipped

# A failed test runs once more, unless it is a data race or more than six tests failed, subtests and their parents included. Tests that
# pass only then are listed at the end: each is a fault of the test or of fsban.
AGAIN        = --rerun-fails=1 --rerun-fails-max-failures=6 --rerun-fails-abort-on-data-race --rerun-fails-report

.PHONY: build run test-fast test test-load lint check chaos soak fuzz dist dashboard pictures bench bench-fail2ban bench-fleet bench-growth bench-kernel
.PHONY: tools-run tools-test tools-pictures

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/...

run: tools-run build
	bin/fsban-demo

# The only programs of bin/base beside Go: a test that runs another one without testenv.System fails here, on every machine.
BASE = base64 basename bash cat chmod cp cut date diff env false grep gunzip gzip head id ln ls mkdir mv printf rm sed setpriv sh sleep sort \
	tail tee test timeout touch tr true uname wc

test-fast:
	@rm -rf bin/base && mkdir -p bin/base && for p in $(BASE); do ln -s "$$(which $$p)" bin/base/; done
	PATH="$$($(GO) env GOROOT)/bin:$(CURDIR)/bin/base" $(GOTESTSUM) -- -short -vet=off -p 3 ./...

# Packages run three at a time (P), because many wait more than they compute: each has namespaces, files and sockets of its own. The
# longest start first, and those that measure time run by themselves. make lint vets them. Packages of PURE start no goroutines (a house
# test holds that): the race detector finds nothing there, and makes their searches five times as long. The tests of LOADS need an idle
# machine: make test-load.
PURE  = . ./config ./detect ./doctor ./doctor/dialplan ./doctor/fsxml ./firewall/saved ./fleet/merge ./packaging/man ./packaging/sbom ./policy
LONG  = ./daemon ./firewall ./packaging ./cmd/fsban ./cmd/fsban-demo
TIMED = ./dashboards ./esl
LOADS = TestChaos$$|TestSoak$$|TestAnAttackerCannotFillTheMemory$$|TestIdle$$|TestGrowth$$
P ?= 3

test: tools-test
	@mkdir -p bin && rm -f bin/again-*
	$(GOTESTSUM) $(AGAIN) bin/again-1 --packages "$(PURE)" -- -vet=off -p $(P) -timeout 15m
	$(GOTESTSUM) $(AGAIN) bin/again-2 --packages "$(LONG) $(filter-out $(PURE) $(LONG) $(TIMED),$(PACKAGES))" -- \
		-race -vet=off -p $(P) -timeout 15m -skip '$(LOADS)'
	$(GOTESTSUM) $(AGAIN) bin/again-3 --packages "$(TIMED)" -- -race -vet=off -p 1 -timeout 15m
	cd bench && $(GOTESTSUM) $(AGAIN) ../bin/again-4 --packages ./... -- -race -timeout 15m
	@if [ -n "$$(cat bin/again-* 2>/dev/null)" ]; then echo "PASSED ONLY WHEN RUN AGAIN, to be mended:"; cat bin/again-*; fi

PACKAGES = . $(patsubst fsban/%,./%,$(filter fsban/%,$(shell $(GO) list ./...)))

test-load: tools-test
	$(GO) test -count=1 -timeout 15m -v -run '$(LOADS)' ./daemon

check: lint test

lint:
	@fmt=$$(gofmt -l .); [ -z "$$fmt" ] || { echo "gofmt has to be run on:"; echo "$$fmt"; exit 1; }
	$(GO) mod verify
	for module in . bench; do (cd $$module && $(GO) mod tidy -diff && $(GO) vet ./... && $(STATICCHECK) ./... && $(GOLANGCI) run ./...) || exit 1; done
	@out=$$($(GOVULNCHECK) ./... 2>&1); code=$$?; echo "$$out"; case "$$out" in \
		*"fetching vulnerabilities"*) echo "govulncheck: its database cannot be reached from here: not checked" ;; \
		*) exit $$code ;; esac

dist:
	GO="$(GO)" VERSION="$(VERSION)" packaging/dist.sh dist

dashboard:
	$(GO) test ./dashboards -run TestDashboardFileIsUpToDate -update

pictures: tools-test tools-pictures
	cd dashboards/pictures && npm ci --no-audit --no-fund && npm run build
	$(GO) test -count=1 -timeout 30m -tags pictures -run TestPictures ./dashboards

bench:
	$(GO) test -run '^$$' -bench . -skip 'Fleet|Packet' -benchmem ./esl ./ctilog ./sipwire ./detect ./policy ./firewall ./firewall/nft ./ledger ./decide ./daemon
	cd bench && $(GO) test -run '^$$' -bench Message ./sipgo

bench-fleet: tools-test
	$(GO) test -run '^$$' -bench 'Fleet' -benchtime 1x ./daemon
	$(GO) test -run '^$$' -bench 'Nodes|Memory' -benchtime 1x ./fleet

FOR ?= 10m
chaos: tools-test
	$(GO) test -count=1 -timeout 0 -v -run 'TestChaos$$' ./daemon -chaos.for $(FOR)
	$(GO) test -count=1 -timeout 0 -v -run 'TestAChangeOfBackendUnderAttack' ./daemon -change.runs 8

soak: tools-test
	$(GO) test -count=1 -timeout 0 -v -run 'TestSoak$$|TestAnAttackerCannotFillTheMemory$$' ./daemon -soak.for $(FOR) -soak.rate 20000

EACH ?= 60s
fuzz:
	$(GO) test -count=1 -timeout 0 ./policy -run 'TestTheEngineDecides|TestTheNextFailure|SimulatedMonths|TestARestartChanges|TestAStepOfTheClock' -search 10
	$(GO) test -count=1 -timeout 0 ./decide -run 'TestARestartAmid' -search 40
	$(GO) test -count=1 -timeout 0 -v ./decide -run 'TestNodesConverge$$' -converge.for $(EACH)
	@grep -ro '^func Fuzz[A-Za-z]*' --include=*_test.go . | sort | sed 's|/[^/]*:func | |' | while read -r room target; do \
		out=$$($(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(EACH) -fuzzminimizetime 1x "$$room" 2>&1); code=$$?; \
		[ $$code = 0 ] || { echo "$$out"; exit $$code; }; \
		echo "$$room $$target $$(echo "$$out" | grep -o 'execs: [0-9]*' | tail -n 1)"; done

bench-fail2ban: tools-test build
	@/usr/bin/python3 -c 'import pyinotify' 2>/dev/null || [ "$$(id -u)" != 0 ] || apt-get install -y -qq --no-install-recommends python3-pyinotify >/dev/null
	cd bench && $(GO) run ./beside -fsban ../bin/fsban $(BESIDE)

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
