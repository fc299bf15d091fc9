# `make demo` and `make test` are all that a newcomer needs; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
RECIPE ?= ticket-triage
PYTEST_WORKERS ?= 2

AIRFLOW := .venvs/airflow/bin
STAGES := .venvs/stages/bin
UV := .venvs/uv/bin/uv
DEMO = $(AIRFLOW)/python -m demo

# uv does not read pip's variable for a folder of wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifeq ($(strip $(UV_FIND_LINKS)),)
unexport UV_FIND_LINKS
endif
export UV_CUSTOM_COMPILE_COMMAND := make lock
# Commands run from the checkout, whatever it is called, and need no PYTHONPATH of the caller's.
export PYTHONPATH := $(CURDIR)

.PHONY: help setup demo stop test lint types test-suites lock docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

setup: .venvs/airflow/.ready .venvs/stages/.ready  ## make the two virtual environments

demo: ## fine-tune a tiny model through Airflow and leave it to chat with (RECIPE=name, CI=1)
	@begun=$$(date +%s); $(MAKE) --no-print-directory setup; \
	$(DEMO) --recipe '$(RECIPE)' $(if $(CI),--ci) --setup-seconds $$(( $$(date +%s) - begun ))

stop: setup  ## end what the demo left running
	@$(DEMO) stop

test: lint types test-suites  ## lint, types and all tests

lint: setup
	@$(AIRFLOW)/ruff check . && $(AIRFLOW)/ruff format --check .

types: setup
	@$(AIRFLOW)/mypy

test-suites: setup
	@$(STAGES)/python -m pytest -n $(PYTEST_WORKERS) -q tests/airsmith_stages tests/demo
	@$(AIRFLOW)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -q tests/end_to_end tests/airsmith

LOCK = $(UV) pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-emit-index-url
LOCK_STAGES = $(LOCK) setup.cfg containers/setup.cfg --override containers/train-cpu/not-locked.txt

lock: $(UV)  ## resolve all dependencies anew
	$(LOCK) setup.cfg --extra airflow --extra dev -o containers/airflow/requirements-dev.lock
	$(LOCK) setup.cfg --extra airflow -c containers/airflow/requirements-dev.lock -o containers/airflow/requirements.lock
	$(LOCK_STAGES) --extra train --extra dev -o containers/train-cpu/requirements-dev.lock
	$(LOCK_STAGES) --extra train -c containers/train-cpu/requirements-dev.lock -o containers/train-cpu/requirements.lock

docs: setup  ## write the generated reference pages anew
	@$(AIRFLOW)/airsmith recipe docs

clean: stop  ## remove the environments and all that the demo made
	rm -rf .venvs .airsmith demo-result.json

$(UV):
	@PYTHON='$(PYTHON)' scripts/check-prerequisites
	@$(PYTHON) -m venv .venvs/uv && .venvs/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

.venvs/airflow/.ready: containers/airflow/requirements-dev.lock setup.cfg | $(UV)
	@echo "Setting up Airflow's virtual environment …"
	@$(UV) venv --quiet --clear --python '$(PYTHON)' .venvs/airflow
	@$(UV) pip install --quiet --python $(AIRFLOW)/python --no-deps --require-hashes -r $<
	@$(UV) pip install --quiet --python $(AIRFLOW)/python --no-deps -e .
	@rm -rf plugins/*.egg-info # beside the installed metadata, Airflow would find the plugin twice
	@touch $@

.venvs/stages/.ready: containers/train-cpu/requirements-dev.lock containers/train-cpu/torch.txt setup.cfg containers/setup.cfg | $(UV)
	@echo "Setting up the stages' virtual environment …"
	@$(UV) venv --quiet --clear --python '$(PYTHON)' .venvs/stages
	@$(UV) pip install --quiet --python $(STAGES)/python --no-deps --require-hashes -r $<
	@UV=$(UV) scripts/install-torch $(STAGES)/python containers/train-cpu/torch.txt
	@$(UV) pip install --quiet --python $(STAGES)/python --no-deps -e . -e containers
	@rm -rf plugins/*.egg-info
	@touch $@
