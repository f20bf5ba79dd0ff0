# Portcullis: `make demo` shows it, `make test` proves it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PORT ?= 8443
DIR ?= .demo
VENV := .venv
BENCH := .bench
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

.PHONY: help
help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: system $(VENV)/ready ## Serve the three examples on https://localhost:8443 (PORT= and DIR= to change)
	cargo build --release --locked
	@exec examples/demo.sh "$(CARGO_TARGET_DIR)/release/portcullis" "$(DIR)" "$(PORT)" "$(VENV)"

.PHONY: test
test: system $(VENV)/ready ## Build everything and run all tests
	cargo build --workspace --locked
	cargo test --workspace --locked

# Minutes instead of seconds of what `make test` does shortly.
.PHONY: soak
soak: system $(VENV)/ready ## The long runs: a minute of chaos, 20 reloads under 100,000 requests, 200 edits, a million mutated paths
	cargo build --release --workspace --locked
	PORTCULLIS_CHAOS_SECONDS=60 PORTCULLIS_RELOADS=20 PORTCULLIS_RELOAD_REQUESTS=100000 PORTCULLIS_MUTATIONS=500000 \
	  PORTCULLIS_POLICIES=50 PORTCULLIS_EDITS=200 \
	  cargo test --release --locked --test it -- --nocapture --test-threads 1 \
	  chaos:: workers:: workload:: paths:: decisions:: hammer::

.PHONY: lint
lint: ## Formatting, lints, documentation, licences
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check licenses bans sources; \
	else echo "cargo-deny is not installed: licences and bans were not checked (cargo install cargo-deny)"; fi

.PHONY: bench
bench: system $(BENCH)/ready ## Compare with other servers, side by side, and print ratios
	cargo build --profile dist --locked
	$(BENCH)/bin/python benches/compare.py --portcullis "$(CARGO_TARGET_DIR)/dist/portcullis" --venv "$(BENCH)"

# The virtualenv of the examples and tests. `python -m pip`: a script named pip installs where it was made, also after
# its virtualenv was copied.
$(VENV)/ready: examples/requirements.txt tests/requirements.txt | system
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --requirement examples/requirements.txt --requirement tests/requirements.txt
	@touch $@

# The servers to compare with.
$(BENCH)/ready: benches/requirements.txt | system
	python3 -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benches/requirements.txt
	@touch $@

# A C compiler, Python with venv, and Rust: installed when we may, named when we may not. The tests of isolation run
# workers as other users, who cannot read a Python in somebody's home: hence the system's own besides. Those of answers
# that break off ask curl, as people do. Those of forward-auth put nginx and Caddy in front.
.PHONY: system
system:
	@missing=(); \
	command -v cc >/dev/null || missing+=(gcc libc6-dev); \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv); \
	[[ -x /usr/bin/python3 ]] || missing+=(python3); \
	command -v curl >/dev/null || missing+=(curl); \
	command -v nginx >/dev/null || missing+=(nginx-light); \
	command -v caddy >/dev/null || missing+=(caddy); \
	if ((${#missing[@]})); then \
	  if [[ $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$${missing[@]}" >/dev/null; \
	  else \
	    echo "missing: $${missing[*]}. Install with: sudo apt-get install $${missing[*]}" >&2; exit 1; \
	  fi; \
	fi
	@command -v cargo >/dev/null || { echo "missing: Rust. Install it with rustup (https://rustup.rs), then try again" >&2; exit 1; }

.PHONY: clean
clean: ## Remove what the build made; the demo's data stays
	cargo clean
	rm -rf $(VENV) $(BENCH)
