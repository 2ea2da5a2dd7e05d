# Each target is the real command. `make demo` and `make test` are all that a fresh machine needs:
# they install what they use into .venv.
PYTHON ?= python3
RUN := .venv/bin
PACKAGES := sdk scheduler worker
# What measures processor time, or has signals fall everywhere within seconds, wants the machine for itself.
ALONE := $(patsubst %,tests/integration/test_%.py,benchmark_baseline lending_programs sdk_signals)
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test check lint format types unit layers simulation integration multihost chaos long bench clean

help:
	@echo "make demo         run two functions, cold and warm, and watch a lease count down"
	@echo "make test         all tests of every push"
	@echo "make check        lint, types, unit and property tests (under 3 minutes)"
	@echo "make simulation   the whole cluster, simulated under faults; and proof that the tests would notice"
	@echo "make integration  real processes, real uv (needs a package index)"
	@echo "make multihost    clusters of hosts made of network namespaces, and what befalls them (as root)"
	@echo "make chaos        one such cluster, in a storm of everything that can happen to it (as root)"
	@echo "make long         everything that is too long for every push"
	@echo "make bench        the figures of docs/explanation/performance.md"
	@echo "make format       rewrite the sources in the project's format"

.venv/installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "keepwarm needs Python 3.11 or newer: run 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'."; exit 1; }
	@test -x $(RUN)/python || $(PYTHON) -m venv .venv
	@test -x $(RUN)/uv || $(RUN)/python -m pip install --quiet --disable-pip-version-check uv
	$(RUN)/uv sync --quiet --frozen
	@touch $@

install: .venv/installed

demo: install
	$(RUN)/keepwarm demo

# The last two mostly wait: one processor does for each.
test: check simulation integration
	$(MAKE) -j 2 --output-sync=target multihost chaos

check: lint types unit

lint: install
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .

types: install
	$(RUN)/mypy $(PACKAGES) tests benchmarks

unit: install
	$(RUN)/pytest -q -n auto tests/unit tests/property tests/typing tests/test_layers.py tests/test_tidy.py

simulation: install
	$(RUN)/pytest -q tests/simulation tests/mutants

integration: install
	$(RUN)/pytest -q -n 2 --dist loadfile tests/integration tests/docs $(ALONE:%=--ignore=%)
	$(RUN)/pytest -q $(ALONE)

multihost: install
	$(RUN)/pytest -q tests/multihost

chaos: install
	$(RUN)/pytest -q tests/chaos

long: install
	KEEPWARM_TIER=long $(RUN)/pytest -q tests

bench: install
	$(RUN)/python -m benchmarks.hot_path
	$(RUN)/python benchmarks/main_path.py

format: install
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
