"""Environment variables of a training's processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError
from airsmith_stages.neuron.environment import cache_folder, training_environment
from tests.support.neuron_training_runs import NeuronTrainingRuns

CACHE = Path("/scratch/airsmith-train-x_1/cache")


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return NeuronTrainingRuns(tmp_path).neuron_run().read_spec()


def on(spec: RunSpec, instance_type: str) -> RunSpec:
    backend = spec.recipe.backend.model_copy(update={"instance_type": instance_type})
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"backend": backend})})


def test_the_library_uses_the_given_cache_folder(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum.neuron.utils.cache_utils import get_neuron_cache_path

    for name, value in training_environment(spec, CACHE).items():
        monkeypatch.setenv(name, value)
    assert get_neuron_cache_path() == cache_folder() == CACHE


def test_a_path_that_the_tools_cannot_parse_is_rejected(spec: RunSpec) -> None:
    with pytest.raises(AirsmithError, match="support only letters"):
        training_environment(spec, Path("/scratch.d/cache"))


def test_logical_cores_match_the_plan(spec: RunSpec) -> None:
    assert "NEURON_LOGICAL_NC_CONFIG" not in training_environment(spec, CACHE)
    trn2 = training_environment(on(spec, "trn2.48xlarge"), CACHE)
    assert (trn2["NEURON_LOGICAL_NC_CONFIG"], trn2["NEURON_RT_VIRTUAL_CORE_SIZE"]) == ("2", "2")


def test_the_hub_is_offline_and_malloc_is_configured(spec: RunSpec) -> None:
    environment = training_environment(spec, CACHE)
    assert (environment["HF_HUB_OFFLINE"], environment["MALLOC_ARENA_MAX"]) == ("1", "64")
    assert "--distribution-strategy=llm-training" in environment["NEURON_CC_FLAGS"].split()
