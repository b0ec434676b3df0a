# One short word for each thing done often. Each recipe is a line that can be
# typed by hand; tools are pinned in module files of their own (.ci/tools), so
# that go.mod lists the product only, and are built into .build/ once.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .build
TOOLS := .build/tools
BUF := $(TOOLS)/buf
LINT := $(TOOLS)/golangci-lint

# Binaries are static; `race` alone needs cgo.
export CGO_ENABLED ?= 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# How long each fuzz target runs: make fuzz FUZZTIME=5m
FUZZTIME ?= 30s
# How many lives the simulated cluster lives: make sim N=1000
N ?= 100
# With which seed they begin: make sim SEED=64 N=1
SEED ?= 1
# Which of its faults it lives, as a red life prints them: make sim SEED=64 N=1 FAULTS=3,7
FAULTS ?=
# Which benchmarks run, and how often: make bench BENCH=Apply COUNT=10
BENCH ?= .
COUNT ?= 1
# Which mutant is tried: make teeth M=preface
M ?=
# What make chaos does, and how long
RUNS ?=
HOURS ?=
FAULT ?=
NODES ?=
AGENTS ?=
OLD ?=
# Which part make vm runs, how often it cuts the power, where a kernel was unpacked, kvm or tcg
T ?=
CUTS ?=
VM_ROOT ?=
VM_ACCEL ?=
# Where what was tried is written down: make sim N=1000 RECORD=e2e/results.tsv
RECORD ?=
export AGENTPLANE_RECORD := $(if $(RECORD),$(abspath $(RECORD)))
export AGENTPLANE_COMMIT := $(VERSION)

.PHONY: help
help: ## list what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: build
build: ## build agentplane, agentd and agentctl, static, into .build/
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/ ./cmd/...

# The two that take longest begin first; one package more than there are processors is tested
# at once, since the end-to-end tests wait more than they work.
.PHONY: test
test: ## all tests: no race detector, cgo, root or network
	go test -timeout 20m -p $$(($$(getconf _NPROCESSORS_ONLN) + 1)) ./e2e ./e2e/sim ./...

.PHONY: race
race: ## all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race ./...

.PHONY: lint
lint: $(LINT) ## golangci-lint: floors, clocks, errors, comments
	$(LINT) run ./...

.PHONY: check-fmt
check-fmt: $(LINT) $(BUF) ## say what `make fmt` would change
	$(LINT) fmt --diff ./...
	$(BUF) format --diff --exit-code proto

.PHONY: fmt
fmt: $(LINT) $(BUF) ## format Go and .proto files in place
	$(LINT) fmt ./...
	$(BUF) format -w proto

.PHONY: proto
proto: $(BUF) ## check the .proto files and generate their Go code
	cd proto && ../$(BUF) lint
	cd proto && ../$(BUF) generate

.PHONY: check-proto
check-proto: $(BUF) ## generated code is fresh, .proto files are clean and break nobody
	cd proto && ../$(BUF) lint
	.ci/proto-fresh
	.ci/proto-breaking

.PHONY: check-floors
check-floors: ## who may import whom, by go list (DESIGN section 4)
	go test -count=1 -run 'Floors' ./e2e/

# AGENTPLANE_E2E=full is what the tests of e2e look at; without it they run
# their short form, which `make test` does too.
.PHONY: e2e
e2e: ## the whole black-box run: real processes, real kills
	AGENTPLANE_E2E=full go test -count=1 -timeout 40m -v ./e2e/...

# A mutant is a build with one protection taken out; e2e/doc.go lists them.
.PHONY: teeth
teeth: ## take out each protection in turn: the test that guards it must fail (M= one)
	AGENTPLANE_TEETH=1 go test -count=1 -timeout 90m -v -run '^TestMutants$$/^$(M)' ./e2e/

# Lives are random, so that how many it takes to see a mutant is a figure of its own: three tries,
# beginning with SEED= and each 10 000 seeds later. .ci/hunt-table sums them up.
.PHONY: hunt
hunt: ## live with each mutant until a life is red: within 500 lives (M= one)
	AGENTPLANE_HUNT=1 AGENTPLANE_SIM_SEED=$(if $(filter-out file,$(origin SEED)),$(SEED)) go test -count=1 -timeout 10h -v -run '^TestHunt$$/^$(M)' ./e2e

# The simulations are ordinary tests: TestLives of e2e/sim lives whole clusters with
# their agents, that of controlplane/consensus lives consensus alone, harder. Each lives
# AGENTPLANE_SIM_LIVES lives, each with its own seed, which a failure prints; SEED= says
# with which to begin. FAULTS= chooses of the faults of one life of a cluster; seeds of the
# lives of consensus mean something else.
.PHONY: sim
sim: ## clusters in virtual time: N= lives, beginning with SEED=
	AGENTPLANE_SIM_LIVES=$(N) AGENTPLANE_SIM_SEED=$(SEED) AGENTPLANE_SIM_FAULTS=$(FAULTS) go test -count=1 -timeout 10h -v -run '^TestLives$$' ./e2e/sim $(if $(FAULTS),,./controlplane/consensus)

# Runs of a minute and more: as many as RUNS= says, or for HOURS=. SEED= repeats a series,
# or the run that names it; FAULT=kill-leader,loss narrows the faults, FAULT=kill-leader+loss
# is this pair; NODES=, AGENTS= and OLD=0 or 1 fix what else the seed chooses. As root each
# process is in a network namespace of its own; without, what needs that is left out.
.PHONY: chaos
chaos: ## processes under random faults: RUNS= of them or for HOURS=, FAULT= narrows
	AGENTPLANE_CHAOS_RUNS=$(if $(HOURS),$(RUNS),$(or $(RUNS),10)) AGENTPLANE_CHAOS_HOURS=$(HOURS) AGENTPLANE_CHAOS_FAULT=$(FAULT) \
	AGENTPLANE_CHAOS_SEED=$(if $(filter-out file,$(origin SEED)),$(SEED)) AGENTPLANE_CHAOS_NODES=$(NODES) \
	AGENTPLANE_CHAOS_AGENTS=$(AGENTS) AGENTPLANE_CHAOS_OLD=$(OLD) go test -count=1 -timeout 0 -v -run '^TestChaos$$' ./e2e

# A guest is emulated where kvm does not work (VM_ACCEL= says which); it takes root, QEMU, busybox,
# nft and the package of a kernel, installed or unpacked into VM_ROOT=. T= is one part.
.PHONY: vm
vm: ## a host of its own, in a virtual machine: reboots, power cuts, firewall, freezes (T= one)
	AGENTPLANE_VM=1 AGENTPLANE_VM_ROOT=$(VM_ROOT) AGENTPLANE_VM_ACCEL=$(VM_ACCEL) AGENTPLANE_VM_CUTS=$(CUTS) \
	AGENTPLANE_E2E_SEED=$(if $(filter-out file,$(origin SEED)),$(SEED)) go test -count=1 -timeout 60m -v -run '^TestGuest$$/^$(T)' ./e2e

.PHONY: bench
bench: ## benchmarks with allocations
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) ./...

.PHONY: bench-fleet
bench-fleet: build ## commands on a thousand simulated agents, and a real one beside os/exec
	$(BIN)/agentplane bench fleet

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	.ci/fuzz $(FUZZTIME)

.PHONY: tools
tools: $(BUF) $(LINT) ## build the pinned tools into .build/tools

.PHONY: clean
clean: ## delete what was built
	rm -rf $(BIN)

# `go tool -modfile=.ci/tools/buf/go.mod buf` is the same without the copy.
$(BUF): .ci/tools/buf/go.mod
	go build -trimpath -modfile=.ci/tools/buf/go.mod -o $@ github.com/bufbuild/buf/cmd/buf

$(LINT): .ci/tools/lint/go.mod
	go build -trimpath -modfile=.ci/tools/lint/go.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
