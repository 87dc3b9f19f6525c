# make demo: sets up, runs a whole purchase on this machine, shows the receipt and where to look around.
# make test: sets up, runs every test with the race detector.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup packages browser build demo test lint fuzz clean

# What the project needs from Debian 12 or Ubuntu 24.04 beside Go.
PACKAGES := softhsm2 pcscd libpcsclite-dev vsmartcard-vpcd openssl pkg-config gcc libc6-dev postgresql ca-certificates \
            p11-kit p11-kit-modules libnss3 libnss3-tools opensc yubico-piv-tool ykcs11

# Any of these will do for the tests of what people see; Debian's is installed where there is none.
BROWSERS := chromium google-chrome google-chrome-stable chromium-browser headless-shell

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME ?= 20000x

help:
	@echo "make setup | build | demo | test | lint | fuzz | clean"

# $(call install,PACKAGES) installs those that are missing.
define install
	@missing=; for p in $(1); do \
	  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
	  sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  echo "setup: installing$$missing"; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null || \
	  { echo "setup: cannot install$$missing; install them by hand and try again" >&2; exit 1; }; \
	fi
endef

setup: packages browser

packages:
	$(call install,$(PACKAGES))
	@test -d /run/pcscd || { sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  echo "setup: making /run/pcscd, which pcscd wants to see"; $$sudo mkdir -p -m 755 /run/pcscd; }
	@command -v go >/dev/null || { echo "setup: no go on PATH: install Go $$(sed -n 's/^go //p' go.mod) or later from https://go.dev/dl" >&2; exit 1; }

browser:
ifeq ($(strip $(foreach b,$(BROWSERS),$(shell command -v $(b)))),)
	$(call install,chromium)
endif

build: packages
	go build -trimpath -o bin/ ./cmd/...

demo: build
	bin/set-lab demo --keep

test: setup
	go vet ./...
	CGO_ENABLED=0 go vet ./roles/...
	GOOS=windows CGO_ENABLED=0 go build ./cmd/set-wallet ./smartcard/...
	go test -race -count=1 -timeout 15m ./...

lint: packages
	@unformatted=$$(gofmt -l cmd hsm roles smartcard softhsm-config testdata); \
	test -z "$$unformatted" || { echo "lint: not formatted: gofmt -w $$unformatted" >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(GOVULNCHECK) ./...

# Every fuzz target for FUZZTIME: a number of inputs (20000x) or a time (10m).
fuzz: packages
	@set -e; for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

clean:
	rm -rf bin
