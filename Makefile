# `make` reproduces the study of params.yaml, `make help` lists the other targets with their texts after ##.
# Targets that run a tool set up .venv first.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: study help setup test fuzz faults slurm verify audit bench experiments docs lint

# SCALE=paper: at the paper's size. KEEP=1: with your changes of params.yaml instead of its committed values.
study: setup  ## run the study of params.yaml; NAME=epsilon_sweep: a ready-made one
	$(if $(NAME),python studies/run.py $(NAME) $(if $(SCALE),--scale $(SCALE)) $(if $(KEEP),--keep),snakemake)

help:  ## this list
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/.complete  ## install what requirements.txt pins into .venv

.venv/.complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Prunus needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version); try: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt
	touch $@

test: setup  ## run the tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: setup  ## try thousands of damaged params.yaml
	$(BIN)/python tests/fuzz/run.py

audit: setup  ## look the pinned packages up among known vulnerabilities
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group audit 2> /dev/null || \
		{ echo "audit: not done, pip-audit could not be installed; is there a network?" >&2; exit 2; }
	@$(BIN)/python tests/audit/run.py

# Installs Debian's slurm-wlm and munge where they are absent; LOG=FILE keeps what it prints.
slurm: setup  ## run a study on a Slurm of its own; needs root and Linux
	$(BIN)/python tests/slurm/run.py $(if $(LOG),--log $(LOG))

# 100 SIGKILLs, damaged files, full disks, two launchers at once: about 25 minutes. KILLS, SEED, ONLY: fewer, others, some.
faults: setup  ## break a study in every way, about 25 minutes
	$(BIN)/python tests/faults/run.py $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

bench: setup  ## measure against what people use instead; ONLY=name: one part
	$(BIN)/python benchmarks/run.py $(ONLY)

# Only what differs between the experiments; no files, whose hashes say little, and no seconds, which always differ.
experiments: setup  ## a study's variants side by side: where their settings and results differ
	dvc exp show --only-changed --drop '.*(/|seconds)' --md

docs: setup  ## build the documentation into site/
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml --site-dir $(CURDIR)/site

verify: setup  ## find damaged outputs and cached objects
	python tools/verify.py

lint: setup  ## check the code's style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
