# The few commands of this project. `make demo` and `make test` each work first thing on a fresh clone; both leave .venv/bin/ramster.
.DELETE_ON_ERROR:
.PHONY: demo test check bench fuzz races simulate simulate-planted soak chaos lock clean venv build tools
.DEFAULT_GOAL := demo

PYTHON ?= python3
# Rust that .ci/tools had to fetch is found here.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
RUST_SOURCES := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
# Not the user's own packages or settings of a session in another environment.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

demo: build
	.venv/bin/ramster demo

test: build .venv/.dev
	cargo test --locked --workspace --features ramster-pager/seams
	.venv/bin/python -m pytest -n $${TEST_PROCESSES:-2} --dist worksteal --ignore=tests/soak --ignore=tests/chaos

check: build .venv/.dev
	.venv/bin/ruff check src tests bench
	.venv/bin/ruff format --check src tests bench
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	MYPYPATH=src .venv/bin/stubtest ramster._native
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features ramster-pager/seams -- -D warnings

bench: build .venv/.dev
	.venv/bin/python -m bench

fuzz: tools
	fuzz/run $${FUZZ_SECONDS:-60}

races: build
	cargo test --locked -p ramster-pager --features seams --test races

# Whole clusters under a simulated clock, network and disk: fresh seeds for SIM_SECONDS.
simulate: tools
	cargo run --locked --release -p ramster-sim -- --seconds $${SIM_SECONDS:-120}

# Bugs planted in core, one at a time: the simulator has to find each.
simulate-planted: tools
	crates/sim/planted/run

# Races and programs that check themselves, each over and over for SOAK_SECONDS.
soak: build .venv/.dev
	.venv/bin/python -m pytest tests/soak -q --soak-seconds=$${SOAK_SECONDS:-120}

# Five nodes in network namespaces, and failures by a seeded script, for CHAOS_SECONDS. As root.
chaos: build .venv/.dev
	.venv/bin/python -m pytest tests/chaos -q -s --chaos-seconds=$${CHAOS_SECONDS:-1800} --timeout=$$(($${CHAOS_SECONDS:-1800} + 900))

# The newest versions that fit; the only place where versions are chosen. Needs uv.
lock:
	uv pip compile -q --python-version 3.11 --universal --generate-hashes --allow-unsafe --custom-compile-command 'make lock' \
		--upgrade pyproject.toml locks/build.in -o locks/run.txt
	uv pip compile -q --python-version 3.11 --universal --generate-hashes --allow-unsafe --custom-compile-command 'make lock' \
		--upgrade --extra dev -c locks/run.txt pyproject.toml locks/build.in -o locks/dev.txt
	uv pip compile -q --python-version 3.11 --universal --generate-hashes --custom-compile-command 'make lock' \
		--upgrade locks/rust.in -o locks/rust.txt

clean:
	rm -rf .venv build dist target src/*.egg-info src/ramster/*.so .mypy_cache .ruff_cache .pytest_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

venv: .venv/.run
build: .venv/.built

# What must be on the machine before anything is built; installs Rust into .venv where it is missing.
tools: .venv/.run
	@PYTHON=.venv/bin/python sh .ci/tools

.venv/.run: locks/run.txt
	@PYTHON="$(PYTHON)" sh .ci/python
	@.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/run.txt
	@touch $@

.venv/.dev: locks/dev.txt .venv/.run
	@.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/dev.txt
	@touch $@

# Both shared objects land in src/ramster, and .venv/bin/ramster runs from there: an edit of Python needs no build.
.venv/.built: .venv/.run pyproject.toml $(RUST_SOURCES)
	@PYTHON=.venv/bin/python sh .ci/tools
	@PYTHON=.venv/bin/python sh .ci/build
	@touch $@
