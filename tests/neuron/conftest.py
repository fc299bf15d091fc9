"""Tests against optimum-neuron's code, whose dependencies on the device are replaced by stubs.

`make test-neuron` creates their environment, `.venvs/neuron`, sets `PYTHONPATH=tests/neuron/stubs` and runs them.

The lock contains optimum-neuron 0.4.5 and optimum 2.0.0 (installed without their dependencies: Neuron's wheels are in
no public index), transformers 4.57, peft 0.17.0, trl 0.24.0, accelerate 1.8.1, huggingface_hub below 1, and Airsmith's
dependencies. torch is the CPU build of the other tests, not the version 2.8 that optimum-neuron pins.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch_xla") is None:
    raise pytest.UsageError(
        "The stubs are not importable. Run `make test-neuron`, or set PYTHONPATH=tests/neuron/stubs."
    )

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.support.neuron_adapters import ShardedAdapters
from tests.support.neuron_training_runs import NeuronTrainingRuns


@pytest.fixture
def trainings(tmp_path: Path) -> NeuronTrainingRuns:
    return NeuronTrainingRuns(tmp_path)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> ShardedAdapters:
    return ShardedAdapters(tmp_path_factory.mktemp("adapters"))
