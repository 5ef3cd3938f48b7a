# The names that people and CI call. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Present when the environment is complete and as new as what it was made from.
READY := $(VENV)/.ready
SOURCES := libs services gateway tests examples

export PYTHONUNBUFFERED := 1

.PHONY: help setup lock proto proto-check breaking check fix test demo up bench bench-ghz chaos fuzz clean

help: ## Lists what there is to call
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## Makes .venv with everything the project needs

$(READY): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) (about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit("Carrel needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Say: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

lock: ## Resolves the dependencies anew into requirements.lock (needs uv)
	uv pip compile -q pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements.lock

proto: $(READY) ## Generates the typed stubs in libs/carrel/api from protos/
	@$(BIN)/buf format -w protos
	@$(BIN)/python tools/generate_stubs.py

proto-check: $(READY) ## Lints the protos, holds them against main, and checks that the stubs are fresh
	@$(BIN)/buf lint protos
	@$(BIN)/buf format -d --exit-code protos
	@$(BIN)/python tools/check_breaking.py
	@$(BIN)/python tools/generate_stubs.py --check

check: proto-check ## All checks that run no service: protos, style, types, import arrows
	@$(BIN)/ruff format --check $(SOURCES) tools
	@$(BIN)/ruff check $(SOURCES) tools
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

fix: $(READY) ## Mends what can be mended by itself
	@$(BIN)/buf format -w protos
	@$(BIN)/ruff format $(SOURCES) tools
	@$(BIN)/ruff check --fix $(SOURCES) tools

test: $(READY) ## All tests, on real engines
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

demo: $(READY) ## The main job for two users at once (DATA=FILE for a trace of your own)
	@$(BIN)/carrel demo $(if $(DATA),--data $(DATA))

up: $(READY) ## Starts the whole system on this machine until Ctrl-C
	@$(BIN)/carrel up

bench: $(READY) ## Measures speed and memory into build/bench.json (ONLY=name for a part)
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

chaos: $(READY) ## Kills, pauses and losses under the event stream, runs and tool calls, over 1,500 of them (ROUNDS=n RUN_ROUNDS=n KILLS=n SEED=n)
	@$(BIN)/python -m tests.chaos.events --rounds $(or $(ROUNDS),200) --seed $(or $(SEED),2026)
	@$(BIN)/python -m tests.chaos.runs --rounds $(or $(RUN_ROUNDS),40) --blows 25 --seed $(or $(SEED),2026)
	@$(BIN)/python -m tests.chaos.tools --kills $(or $(KILLS),500) --seed $(or $(SEED),2026)

fuzz: $(READY) ## A million wrong contexts; none may be accepted (CASES=n SEED=n)
	@$(BIN)/python -m tests.fuzz.contexts --cases $(or $(CASES),1000000) --seed $(or $(SEED),1)

bench-ghz: $(READY) ## The same from outside with ghz (needs Go or ghz)
	@$(BIN)/python -m tests.bench.ghz

clean: ## Removes what was built, not the data
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
