# The doors. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test cluster cluster-down k8s test-k8s conformance vm-test vm-kubeadm check bench bench-k8s bench-lists bench-polling
.PHONY: build build-dev ahead plugins deb package-tools host-before shim install tools setup fmt clippy links tidy units deny e2e

CARGO ?= cargo
# The shim is linked statically, which wants an explicit target.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local
# The version that .deny.toml is written for.
CARGO_DENY := 0.20.2
# Everything but the tests that need root and the built programs.
ROOMS := --workspace --exclude e2e

help: ## List the doors
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: setup build ## Show the main job on real parts, step by step (root; under a minute once built)
	@$(CARGO) build -q --release -p e2e --bin demo
	@$(TARGET)/release/demo

test: package-tools tools host-before ahead build-dev units plugins tidy e2e k8s ## Everything: units, tidy, end-to-end, Kubernetes (root; Go; sets the machine up itself)

# A test that would skip because something is not installed fails here: setup has installed it.
test: export GANTLINE_TESTS_MUST_RUN = 1

cluster: setup build ## Start a Kubernetes cluster of one node on Gantline and say how to use it (root; Go)
	@e2e/tools/build.sh cluster runc
	@$(CARGO) build --locked -q -p e2e --bin cluster
	@$(TARGET)/debug/cluster up

cluster-down: ## Remove that cluster and every trace of it
	@$(CARGO) build --locked -q -p e2e --bin cluster
	@$(TARGET)/debug/cluster down

test-k8s: setup k8s ## Test what Kubernetes makes of Gantline, with a kubelet as it is and with its CRI gates on (root; Go; forty minutes)
	@GANTLINE_E2E_GATES=on GANTLINE_TESTS_MUST_RUN=1 $(CARGO) test --locked -q -p e2e --test k8s

# The long ones (kills for a minute, the kubelet's own round of images) take their whole time only here.
test-k8s: export GANTLINE_E2E_LONG = 1

conformance: setup build-dev ## critest whole: runc, crun, over WebSocket, in parallel (root; ten minutes)
	@e2e/tools/build.sh critest runc
	@$(CARGO) build --locked -q -p e2e --bin conformance
	@$(TARGET)/debug/conformance

check: setup fmt clippy links tidy units deny ## The quick one: formatting, lints, tidy, units, licences (root, as make test)

vm-test: setup build ## Test cgroup v2, systemd and the Debian package in an emulated machine (root; an hour or two)
	@e2e/tools/build.sh crictl critest runc cni-plugins
	@e2e/vm/run.sh
	@e2e/vm/run.sh deb

vm-kubeadm: setup build ## Make a cluster with kubeadm, in an emulated machine with systemd (root; an hour)
	@e2e/tools/build.sh kubeadm cluster crictl cni-plugins
	@e2e/vm/kubeadm.sh

bench: setup tools build ## Measure beside containerd with the same parts (root); WRITE=docs/performance.md keeps the table
	@$(CARGO) build -q --release -p e2e --bin bench
	@$(TARGET)/release/bench $(if $(WRITE),--write $(WRITE))

bench-lists: setup tools build ## Measure lists of 1,000 and 10,000 containers (root, five minutes); WRITE=docs/performance.md keeps the table
	@$(CARGO) build -q --release -p e2e --bin lists
	@$(TARGET)/release/lists $(if $(WRITE),--write $(WRITE))

bench-polling: setup tools build ## Measure a kubelet's polling beside containerd (root, ten minutes); WRITE=docs/performance.md keeps the tables
	@$(CARGO) build -q --release -p e2e --bin polling
	@$(TARGET)/release/polling $(if $(WRITE),--write $(WRITE))

bench-k8s: setup tools build ## Measure pods under a kubelet beside containerd (root, Go, ten minutes); WRITE=docs/performance.md keeps the table
	@e2e/tools/build.sh cluster
	@$(CARGO) build -q --release -p e2e --bin bench-k8s
	@$(TARGET)/release/bench-k8s $(if $(WRITE),--write $(WRITE))

build: shim ## Build the release binaries: target/release/gantline, target/shim/gantline-shim
	@$(CARGO) build --locked --release -p gantline

deb: build ## Build the Debian package: target/deb/gantline_<version>_<architecture>.deb
	@$(CARGO) build --locked -q --release -p gantline --features pages --bin gantline-pages
	@packaging/build.sh

install: build ## Install into $(PREFIX)/bin (PREFIX=…, DESTDIR=…)
	install -D -m 755 $(TARGET)/release/gantline $(DESTDIR)$(PREFIX)/bin/gantline
	install -D -m 755 $(TARGET)/shim/gantline-shim $(DESTDIR)$(PREFIX)/bin/gantline-shim

tools: setup ## Build crictl, critest, runc and containerd of the pinned versions (Go), fetch CRIU
	@e2e/tools/build.sh crictl critest runc containerd criu

setup:
	@e2e/setup.sh

package-tools:
	@e2e/setup.sh package

build-dev: shim
	@$(CARGO) build --locked -p gantline

# Alone and in a directory of its own: no feature of another crate reaches it, and its flags rebuild nothing else.
shim:
	@RUSTFLAGS="-C target-feature=+crt-static" CARGO_TARGET_DIR=$(TARGET)/shim \
		$(CARGO) build --locked -p gantline-shim --profile shim --target $(HOST)
	@ln -sf $(HOST)/shim/gantline-shim $(TARGET)/shim/gantline-shim

fmt:
	@$(CARGO) fmt --all --check

clippy:
	@$(CARGO) clippy --locked --workspace --all-targets --features gantline/pages -- -D warnings
	@# Tests that no plain `cargo test` runs are no part of all targets.
	@$(CARGO) clippy --locked -p e2e --test k8s --test cluster --test kubelet_moves -- -D warnings

# What comments point at is there.
links:
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
		$(CARGO) doc --locked -q --no-deps --document-private-items --workspace

tidy:
	@$(CARGO) test --locked -q -p e2e --lib --test tidy

units:
	@umask 022 && $(CARGO) test --locked -q --no-fail-fast $(ROOMS)

# The pod network once more on the reference plugins' newest, which speak CNI 1.1.0; Debian's do not.
plugins: setup
	@e2e/tools/build.sh cni-plugins
	@GANTLINE_CNI_BIN=$(abspath $(TARGET))/tools/cni $(CARGO) test --locked -q -p network --test plugins

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install -q --locked cargo-deny@$(CARGO_DENY)
	@$(CARGO) deny --log-level error check licenses bans sources

# What is on this machine before the tests; the last of them compares.
HOST_BEFORE := $(abspath $(TARGET))/host-before.list

host-before: setup
	@$(CARGO) build --locked -q -p e2e --bin host-before
	@$(TARGET)/debug/host-before $(HOST_BEFORE)

# Each test makes its own machine out of namespaces; two at once suit two cores. The last one looks at what the others
# left, above all those that failed.
e2e: build-dev tools host-before
	@GANTLINE_HOST_BEFORE=$(HOST_BEFORE) $(CARGO) test --locked -q -p e2e --tests --no-fail-fast -- --test-threads=2

# Kubernetes takes nine minutes to compile, and the end-to-end tests leave most of two processors idle: it is compiled
# meanwhile, in nothing but that. Who needs it waits for it, see build.sh.
ahead: tools
	@mkdir -p $(TARGET)/tools
	@chrt --idle 0 ionice --class idle e2e/tools/build.sh cluster helm >$(TARGET)/tools/ahead.log 2>&1 </dev/null &

# Kubernetes on Gantline: one cluster and all tests on it, then a look at what they left on the host.
k8s: build-dev host-before
	@e2e/tools/build.sh cluster helm runc crictl containerd
	@GANTLINE_TESTS_MUST_RUN=1 $(CARGO) test --locked -q -p e2e --test k8s
	@GANTLINE_TESTS_MUST_RUN=1 $(CARGO) test --locked -q -p e2e --test cluster --test kubelet_moves
	@GANTLINE_HOST_BEFORE=$(HOST_BEFORE) $(CARGO) test --locked -q -p e2e --test zz_nothing_left
