# Two commands do everything: `make run` (hear a recorded call) and `make test` (every test).
SHELL := /bin/bash
PYTHON ?= $(shell for p in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { echo $$p; break; }; done)
VENV := .venv
# Most tests wait for something: more workers than processors. `make test WORKERS=0` runs them in a row.
WORKERS ?= 4
BIN := $(VENV)/bin

.PHONY: help run demo test unit interop lint format bench sanitize mutants lock clean
help: ## Show the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

$(VENV)/.run: pyproject.toml setup.py $(wildcard src/siprec/*/csrc/*)
	@if [ -z "$(PYTHON)" ]; then echo "siprec needs Python 3.11 or newer (Debian: apt-get install python3 python3-venv)" >&2; exit 1; fi
	@tools/system-packages venv $(PYTHON)
	@echo "==> creating $(VENV) with $$($(PYTHON) --version) and installing siprec"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@$(BIN)/python -c 'import siprec.relay._native' 2>/dev/null || \
		echo "==> no C compiler or no Python.h: the C modules are left out, the same in Python is slower (apt-get install gcc python3-dev)"
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@echo "==> installing the test tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

run: $(VENV)/.run ## Set up, start proxy, relay and recorder, place a real call, show its recording
	@$(BIN)/siprec demo

demo: $(VENV)/.run ## The same once, without staying up
	@$(BIN)/siprec demo --once

test: $(VENV)/.test ## Set up, run every test (unit, simulation, interop with the real peers)
	@tools/system-packages test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

unit: $(VENV)/.test ## Only the tests that need no other program
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/unit tests/simulation

interop: $(VENV)/.test ## Only the tests with SIPp, RTPEngine, baresip, tshark
	@tools/system-packages test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/interop

lint: $(VENV)/.test ## ruff, mypy --strict, import-linter, vulture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache pyproject.toml >/dev/null || $(BIN)/lint-imports --no-logo --no-cache pyproject.toml
	@$(BIN)/python tools/unused

format: $(VENV)/.test ## Format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

sanitize: $(VENV)/.test ## Run the packet loop's tests with AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/sanitize $(BIN)/python

mutants: $(VENV)/.test ## Break the code in many places, one by one: a test has to notice each
	@$(BIN)/python tools/mutants

bench: $(VENV)/.test ## Print the figures: CPU per call, per packet, per message
	@tools/system-packages test
	@$(BIN)/python bench/message.py && $(BIN)/python bench/call_budget.py && $(BIN)/python bench/relay.py && $(BIN)/python bench/calls.py --against kamailio --memory 200 && $(BIN)/python bench/listeners.py

lock: $(VENV)/.test ## Pin what the container installs (requirements.lock), by version and hash
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --extra redis --extra codecs --generate-hashes --no-header \
		--python-version 3.11 --output-file requirements.lock

clean: ## Remove what make has made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
