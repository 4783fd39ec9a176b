# `make` reproduces the study of params.yaml, `make study NAME=...` a ready-made one (SCALE=paper: at the paper's size),
# `make experiments` lists a study's variants, `make test` runs the tests, `make fuzz` tries thousands of damaged
# params.yaml, `sudo make slurm` runs a study on a Slurm of its own, `make verify` finds damaged outputs and cached
# objects, `make audit` looks the pinned packages up among known vulnerabilities, `make bench` measures, `make docs`
# builds the documentation into site/, `make faults` breaks a study in every way; each sets up .venv first.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: study setup test fuzz faults slurm verify audit bench experiments docs lint

study: setup
	$(if $(NAME),python studies/run.py $(NAME) $(if $(SCALE),--scale $(SCALE)),snakemake)

setup: .venv/.complete

.venv/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Prunus needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version); try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt
	touch $@

test: setup
	$(BIN)/python -m pytest

fuzz: setup
	$(BIN)/python tests/fuzz/run.py

audit: setup
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group audit 2> /dev/null || \
		{ echo "audit: not done, pip-audit could not be installed; is there a network?" >&2; exit 2; }
	@$(BIN)/python tests/audit/run.py
# Needs root and Linux, and installs Debian's slurm-wlm and munge where they are absent; LOG=FILE keeps what it prints.
slurm: setup
	$(BIN)/python tests/slurm/run.py $(if $(LOG),--log $(LOG))

# 100 SIGKILLs, damaged files, full disks, two launchers at once: about 25 minutes. KILLS, SEED, ONLY: fewer, others, some.
faults: setup
	$(BIN)/python tests/faults/run.py $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

bench: setup
	$(BIN)/python benchmarks/run.py $(ONLY)

# Only what the experiments differ in; neither files, whose hashes say little, nor seconds, which always differ.
experiments: setup
	dvc exp show --only-changed --drop '.*(/|seconds)' --md

docs: setup
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

verify: setup
	python profiles/verify.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
