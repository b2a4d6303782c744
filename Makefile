.DEFAULT_GOAL := help
SHELL := /bin/bash
export CGO_ENABLED ?= 0
TOOL    := go tool -modfile=tools/go.mod
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TARGETS := linux/amd64 linux/arm64 windows/amd64 windows/arm64

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: build ## a small clinic is backed up, changed, restored and proved: kassett demo
	bin/kassett demo $(ARGS)

build: ## the one static binary, bin/kassett
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/kassett ./cmd/kassett

deps: ## install the peers that tests and benchmarks need (Debian packages)
	@tools/deps.sh

test: deps ## what every commit must pass; SHORT=1 leaves out missing peers
	go vet ./...
	go test ./...

test-windows: ## the compiled Windows tests under wine, as far as that goes
	@tools/deps.sh windows
	tools/wine-test.sh ./source/files

race: ## the tests under the race detector, shuffled (needs gcc)
	CGO_ENABLED=1 go test -race -shuffle=on -count=1 -timeout 30m ./...

lint: ## golangci-lint and its formatters, pinned in tools/go.mod
	$(TOOL) golangci-lint run
	$(TOOL) golangci-lint fmt --diff

fmt: ## write the format the linter wants
	$(TOOL) golangci-lint fmt

vuln: ## known vulnerabilities that our calls reach
	$(TOOL) govulncheck ./...

fuzz: ## each parser of foreign bytes for a while (T=1m)
	@set -e; for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep ^Fuzz || true); do \
		echo "$$p $$f"; go test -run='^$$' -fuzz="^$$f\$$" -fuzztime=$${T:-1m} $$p; done; done

nightly: ## the slow set: kill -9 of the real binary 200 times, fuzzing, race
	KASSETT_NIGHTLY=1 go test -count=1 -timeout 60m -run Nightly ./...
	$(MAKE) fuzz race

soak: deps ## random faults on each storage while backup, prune, copy and check run (T=10m, SEED= repeats, ONLY=s3)
	KASSETT_SOAK=$${T:-10m} KASSETT_SOAK_SEED=$(SEED) KASSETT_SOAK_ONLY=$(ONLY) go test -count=1 -timeout 6h -parallel 8 -v -run 'TestSoak$$' ./cmd/kassett

bench: build ## compare with restic and borg, side by side; tables in bench/out
	go run ./bench $(ARGS)

cross: ## build for every system we promise
	@set -e; for t in $(TARGETS); do echo "build $$t"; \
		GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o dist/kassett-$${t%/*}-$${t#*/} ./cmd/kassett; done

check: lint test race cross vuln ## everything a release must pass

.PHONY: help run build deps test test-windows race lint fmt vuln fuzz nightly soak bench cross check
