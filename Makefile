# Two commands on a fresh machine: make demo, make test. Everything else is a detail.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench fuzz emulation hardware qat clean setup lock

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## See the whole chain work on this machine (about two minutes)
	@$(BIN)/quarterdeck demo $(ARGS)

test: setup ## Run all tests
	@deploy/workspace/system-packages mosquitto
	@$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: setup ## Check format, style, types and the architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup ## Measure, and print a table
	@$(BIN)/python -m tests.bench $(ARGS)

fuzz: setup ## Look for inputs that break something (ARGS="--seconds 60")
	@$(BIN)/python -m tests.fuzz $(ARGS)

hardware: ## Bring the software token and TPM that tests use (optional, 20 MB)
	@deploy/workspace/system-packages softhsm2 openssl swtpm swtpm-tools tpm2-openssl tpm2-abrmd libtss2-tcti-tabrmd0 tpm2-tools dbus

emulation: setup ## Bring the emulator of other processors (optional, 110 MB)
	@PYTHON="$(BIN)/python" deploy/emulation/install

qat: setup ## Install PyTorch for training integers (optional, 200 MB)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e "./controller[qat]"

setup: $(READY) ## Make the virtual environment (the others do it by themselves)

$(READY): deploy/constraints.txt pyproject.toml shared/pyproject.toml agent/pyproject.toml controller/pyproject.toml deploy/workspace/make-venv
	@deploy/workspace/make-venv "$(PYTHON)" "$(VENV)"
	@touch $@

lock: setup ## Take the versions that are installed now as the pinned ones
	@deploy/workspace/lock "$(VENV)"

clean: ## Remove the virtual environment and everything the demo left
	rm -rf $(VENV) .demo .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
