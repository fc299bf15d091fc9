# Newcomers need `make demo` and `make test` only; `make help` lists the other targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
RECIPE ?= ticket-triage
PYTEST_WORKERS ?= 2
# For `make images`: the images, the registry, the settings file to update, the builder (Docker, else buildah), and replacement
# Dockerfiles (IMAGE=FILE …).
IMAGES ?= cpu train-cpu vllm-cpu airflow
REGISTRY ?= localhost:5000/airsmith
SETTINGS ?= airsmith.yaml
BUILD ?=
BASE_IMAGE ?=
STAND_IN ?=
BENCH ?= mirror tokenize consolidate merge
UPGRADE ?= --upgrade

AIRFLOW := .venvs/airflow/bin
STAGES := .venvs/stages/bin
NEURON := .venvs/neuron/bin
SITE := .venvs/docs/bin
UV := .venvs/uv/bin/uv
DEMO := $(AIRFLOW)/python -m demo
PYTEST := python -m pytest -n $(PYTEST_WORKERS)
# The longest first, so that both workers finish at about the same time.
CLUSTER_TESTS := $(patsubst %,tests/cluster/test_%.py,neuron_chain serving pipeline)
CLUSTER_TESTS += $(filter-out $(CLUSTER_TESTS),$(wildcard tests/cluster/test_*.py))
# `make test-cluster` runs all tests; CORE=1 the core set, SHARD=K/N or SHARD=COMMIT one shard of the others, both together both.
CORE ?=
SHARD ?=
# DURATIONS=1 updates the durations by which the shards are balanced.
DURATIONS ?=
SELECT_CLUSTER_TESTS = $(if $(CORE),--core) $(if $(SHARD),--shard '$(SHARD)') \
	$(if $(DURATIONS),--durations-file tests/cluster/durations.json)
TEST_CLUSTER = AIRSMITH_TEST_SETTINGS='$(SETTINGS)' $(AIRFLOW)/python -m pytest $(CLUSTER_TESTS) $(SELECT_CLUSTER_TESTS)
BY_FILE := --dist loadfile --no-loadscope-reorder

# uv does not read pip's variables: pass pip's package index on to it.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
export UV_PYTHON_DOWNLOADS := never
export UV_HTTP_TIMEOUT ?= 180
export UV_CUSTOM_COMPILE_COMMAND := make lock
# Commands run from the checkout and do not need a PYTHONPATH from the caller.
export PYTHONPATH := $(CURDIR)

.PHONY: help setup demo stop test lint types test-stages test-airflow test-neuron test-training test-long images cluster-images
.PHONY: test-cluster test-cluster-long wheel test-wheel bench benchmark-stages benchmark-deferred lock docs diagrams site clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s "$$(printf '\t')"

setup: .venvs/airflow/.ready .venvs/stages/.ready  ## create the two virtual environments (PYTHON=python3.12)
	@:

demo:  ## fine-tune a tiny model through Airflow and serve it (RECIPE=name, CI=1)
	@begun=$$(date +%s); $(MAKE) --no-print-directory setup; \
	$(DEMO) --recipe '$(RECIPE)' $(if $(CI),--ci) --setup-seconds $$(( $$(date +%s) - begun ))

stop:  ## stop the servers of the demo
	@if [ -e .venvs/airflow/.ready ]; then $(DEMO) stop; else echo "Nothing was set up here."; fi

test: lint types  ## lint, types and all tests; every suite runs even if another one fails
	@$(MAKE) --no-print-directory --keep-going test-stages test-airflow

lint: setup  ## check with ruff
	@$(AIRFLOW)/ruff check . && $(AIRFLOW)/ruff format --check .

types: setup  ## check with mypy --strict
	@$(AIRFLOW)/mypy

test-stages: setup  ## run the tests of the stages
	@$(STAGES)/$(PYTEST) --dist worksteal -m 'not long' tests/airsmith_stages tests/demo --durations 20

test-airflow: setup  ## run the tests of the Airflow package
	@$(AIRFLOW)/$(PYTEST) $(BY_FILE) -m 'not long' tests/end_to_end tests/faults tests/airsmith tests/containers --durations 20

test-neuron: .venvs/neuron/.ready  ## run the Trainium tests with optimum-neuron on stubs of the device (Python 3.11)
	@PYTHONPATH=$(CURDIR)/tests/neuron/stubs $(NEURON)/python -m pytest tests/neuron

test-training: setup  ## run the long training tests: parity, resume, 500 kills, the reference sweep
	@failed=0; export AIRSMITH_TEST_LONG=1; $(STAGES)/$(PYTEST) tests/airsmith_stages/training || failed=1; \
	$(AIRFLOW)/python -m pytest -m long tests/end_to_end/test_sweep.py || failed=1; \
	exit $$failed

test-long: setup  ## run all fault, race and damaged-file tests; `make test` samples a twentieth
	@failed=0; export AIRSMITH_TEST_LONG=1; $(STAGES)/python -m pytest tests/airsmith_stages/test_damaged_files.py || failed=1; \
	$(AIRFLOW)/$(PYTEST) $(BY_FILE) tests/faults || failed=1; \
	exit $$failed

LOCK = $(UV) pip compile --quiet $(UPGRADE) --generate-hashes --no-emit-index-url
LOCK_ANYWHERE = $(LOCK) --universal --python-version 3.10
# For packages that have wheels for the image's platform only.
LOCK_IMAGE = $(LOCK) --python-version 3.11 --python-platform x86_64-manylinux_2_28
LOCK_STAGES = $(LOCK_ANYWHERE) --config-file containers/train-cpu/uv.toml --no-emit-package torch -c containers/train-cpu/torch.txt \
	setup.cfg containers/setup.cfg
# The base image contains torch and the packages of Neuron's index.
LOCK_NEURON_XLA = $(LOCK) --config-file containers/train-neuron-xla/uv.toml --no-emit-package torch setup.cfg containers/setup.cfg \
	--extra neuron-xla
AS_TESTED = -c containers/train-cpu/requirements-dev.lock

lock: $(UV)  ## update all lock files (UPGRADE= keeps the locked versions)
	$(LOCK_ANYWHERE) containers/build-tools.txt -o containers/build-tools.lock
	$(LOCK_ANYWHERE) setup.cfg --extra airflow --extra dev -o containers/airflow/requirements-dev.lock
	$(LOCK_ANYWHERE) setup.cfg --extra airflow -c containers/airflow/requirements-dev.lock -o containers/airflow/requirements.lock
	$(LOCK_ANYWHERE) containers/airflow/postgres.txt -o containers/airflow/postgres.lock
	$(LOCK_STAGES) --extra train --extra dev -o containers/train-cpu/requirements-dev.lock
	$(LOCK_STAGES) --extra train $(AS_TESTED) -o containers/train-cpu/requirements.lock
	$(LOCK_STAGES) $(AS_TESTED) -o containers/cpu/requirements.lock
	$(LOCK_IMAGE) --config-file containers/train-cuda/uv.toml -c containers/train-cpu/torch.txt $(AS_TESTED) \
		setup.cfg containers/setup.cfg --extra train --extra gpu --extra quantization -o containers/train-cuda/requirements.lock
	$(LOCK_IMAGE) --config-file containers/train-cpu/uv.toml --no-emit-package torch -c containers/train-cpu/torch.txt $(AS_TESTED) \
		setup.cfg containers/setup.cfg --extra train --extra ray -o containers/train-cpu-ray/requirements.lock
	$(LOCK_ANYWHERE) --config-file containers/train-rocm/uv.toml --no-emit-package torch --no-emit-package triton $(AS_TESTED) \
		setup.cfg containers/setup.cfg --extra train --extra gpu -o containers/train-rocm/requirements.lock
	$(LOCK_NEURON_XLA) --universal --python-version 3.11 tests/neuron/requirements.txt -o tests/neuron/requirements.lock
	$(LOCK_NEURON_XLA) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-package protobuf \
		-c tests/neuron/requirements.lock -o containers/train-neuron-xla/requirements.lock
	$(LOCK) --python-version 3.12 --python-platform x86_64-manylinux_2_28 --config-file containers/train-neuron-native/uv.toml \
		--no-emit-package torch -c containers/train-cpu/torch.txt $(AS_TESTED) setup.cfg containers/setup.cfg --extra train \
		-o containers/train-neuron-native/requirements.lock
	$(LOCK_IMAGE) --config-file containers/vllm-cpu/uv.toml --no-emit-package torch \
		setup.cfg containers/vllm-cpu/requirements.txt -o containers/vllm-cpu/requirements.lock
	$(LOCK_IMAGE) setup.cfg containers/vllm-cuda/requirements.txt -o containers/vllm-cuda/requirements.lock
	$(LOCK_ANYWHERE) --config-file containers/train-cpu/uv.toml --no-emit-package torch -c containers/train-cpu/torch.txt $(AS_TESTED) \
		benchmarks/requirements.txt -o benchmarks/requirements.lock
	$(LOCK_ANYWHERE) scripts/site/requirements.txt -o scripts/site/requirements.lock

images: setup  ## build and push IMAGES to REGISTRY, and write their digests to SETTINGS (BUILD=…, BASE_IMAGE=…)
	@$(AIRFLOW)/python -m scripts.images $(IMAGES) --registry '$(REGISTRY)' --settings '$(SETTINGS)' --build '$(BUILD)' \
		$(if $(BASE_IMAGE),--build-arg 'BASE_IMAGE=$(BASE_IMAGE)') $(addprefix --stand-in ,$(STAND_IN))

# pytest's exit status 5: no test is selected.
test-cluster: setup  ## run the tests on the cluster of KUBECONFIG with the images of SETTINGS (CORE=1, SHARD=K/N or COMMIT)
	@failed=0; \
	$(TEST_CLUSTER) -m 'not long and not alone' -n $(PYTEST_WORKERS) $(BY_FILE) --durations 25 || [ $$? = 5 ] || failed=1; \
	$(TEST_CLUSTER) -m 'not long and alone' --durations 10 || [ $$? = 5 ] || failed=1; \
	exit $$failed

cluster-images: setup  ## print the images that the selected cluster tests need (CORE=1, SHARD=K/N or COMMIT)
	@mkdir -p .airsmith
	@$(AIRFLOW)/python -m pytest $(CLUSTER_TESTS) $(SELECT_CLUSTER_TESTS) -m 'not long' --collect-only -qq \
		--images-file .airsmith/cluster-images.txt >/dev/null
	@cat .airsmith/cluster-images.txt

test-cluster-long: setup  ## run the cluster tests including the long ones
	@$(TEST_CLUSTER) --durations 30

bench: setup .venvs/benchmarks/.ready  ## compare Airsmith's stages with other tools, into benchmarks/results (BENCH=merge)
	@failed=0; for claim in $(BENCH); do $(STAGES)/python -m benchmarks.$$claim || failed=1; done; exit $$failed

benchmark-stages: setup  ## measure a stage's overhead on the cluster, compared with the provider's operator
	@AIRSMITH_TEST_SETTINGS='$(SETTINGS)' $(AIRFLOW)/python -m benchmarks.stage_overhead

benchmark-deferred: setup  ## measure the cost of many deferred trainings on a cluster with fake nodes
	@AIRSMITH_TEST_SETTINGS='$(SETTINGS)' $(AIRFLOW)/python -m benchmarks.deferred_trainings

wheel: setup  ## build both distributions, airsmith and airsmith-stages, into dist/
	@rm -rf dist && mkdir -p dist .airsmith
	@build=$$(mktemp -d .airsmith/wheel.XXXXXX); trap 'rm -rf "$$build"' EXIT; \
	cp -R --parents README.md LICENSE setup.cfg pyproject.toml plugins containers/setup.cfg containers/pyproject.toml \
		containers/airsmith_stages "$$build"; \
	for project in "$$build" "$$build/containers"; do \
		$(UV) build --quiet --wheel --build-constraints containers/build-tools.lock --out-dir dist "$$project"; \
	done
	@rm -f dist/.gitignore; ls dist

test-wheel: wheel  ## test the wheels in clean environments
	@$(AIRFLOW)/python -m pytest tests/packaging

docs: setup  ## regenerate the schema and the reference pages
	@$(AIRFLOW)/airsmith recipe docs

diagrams:  ## redraw docs/images/architecture-*.svg from architecture.txt
	@$(PYTHON) -m scripts.site.diagram

site: .venvs/docs/.locked  ## build the docs site into .airsmith/site; broken links and pages missing from the menu fail
	@PATH=$(CURDIR)/$(SITE):$$PATH $(SITE)/python -m scripts.site

clean:  ## stop all servers, and delete the environments and the demo's files
	-@$(MAKE) --no-print-directory stop
	rm -rf .venvs .airsmith demo-result.json

$(UV):
	@PYTHON='$(PYTHON)' scripts/check-prerequisites
	@'$(PYTHON)' -m venv --clear .venvs/uv
	@.venvs/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv==0.13.*'

# Both environments use the interpreter that check-prerequisites accepted.
VENV = $(UV) venv --quiet --clear --python .venvs/uv/bin/python
INSTALL = $(UV) pip install --quiet --no-deps --python

.venvs/airflow/.locked: containers/airflow/requirements-dev.lock | $(UV)
	@echo "Setting up Airflow's virtual environment …"
	@$(VENV) .venvs/airflow
	@$(INSTALL) $(AIRFLOW)/python --require-hashes -r $<
	@touch $@

.venvs/stages/.locked: containers/train-cpu/requirements-dev.lock containers/train-cpu/torch.txt | $(UV)
	@echo "Setting up the stages' virtual environment …"
	@$(VENV) .venvs/stages
	@$(INSTALL) $(STAGES)/python --require-hashes -r $<
	@UV=$(UV) scripts/install-torch $(STAGES)/python containers/train-cpu/torch.txt
	@touch $@

# Delete egg-info: with it, Airflow would find the plugin's entry point twice.
.venvs/airflow/.ready: .venvs/airflow/.locked setup.cfg
	@$(INSTALL) $(AIRFLOW)/python -e .
	@rm -rf plugins/*.egg-info
	@touch $@

.venvs/stages/.ready: .venvs/stages/.locked setup.cfg containers/setup.cfg
	@$(INSTALL) $(STAGES)/python -e . -e containers
	@rm -rf plugins/*.egg-info containers/*.egg-info
	@touch $@

# optimum-neuron supports Python 3.10 and 3.11 only; the lock is for 3.11, the version of Neuron's training image.
.venvs/neuron/.locked: tests/neuron/requirements.lock containers/train-cpu/torch.txt | $(UV)
	@echo "Setting up optimum-neuron's virtual environment …"
	@$(UV) venv --quiet --clear --python 3.11 .venvs/neuron || \
		{ echo 'error: optimum-neuron needs Python 3.11; install it beside yours: sudo apt-get install python3.11' >&2; exit 1; }
	@$(INSTALL) $(NEURON)/python --require-hashes -r $<
	@UV=$(UV) scripts/install-torch $(NEURON)/python containers/train-cpu/torch.txt
	@touch $@

.venvs/neuron/.ready: .venvs/neuron/.locked setup.cfg containers/setup.cfg
	@$(INSTALL) $(NEURON)/python -e . -e containers
	@rm -rf plugins/*.egg-info containers/*.egg-info
	@touch $@

# The tools that the benchmarks compare with.
.venvs/benchmarks/.ready: benchmarks/requirements.lock containers/train-cpu/torch.txt | $(UV)
	@echo "Setting up the benchmarks' virtual environment …"
	@$(VENV) .venvs/benchmarks
	@$(INSTALL) .venvs/benchmarks/bin/python --require-hashes -r $<
	@UV=$(UV) scripts/install-torch .venvs/benchmarks/bin/python containers/train-cpu/torch.txt
	@touch $@

# The site generator.
.venvs/docs/.locked: scripts/site/requirements.lock | $(UV)
	@echo "Setting up the site's virtual environment …"
	@$(VENV) .venvs/docs
	@$(INSTALL) $(SITE)/python --require-hashes -r $<
	@touch $@
