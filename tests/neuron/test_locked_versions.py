"""The lock of Neuron's image overrides only the version bounds of Airsmith."""

from __future__ import annotations

import importlib
import importlib.metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OVERRIDDEN = {
    ("airsmith", "huggingface-hub"),
    ("airsmith-stages", "numpy"),
    ("airsmith-stages", "tokenizers"),
}


def unmet() -> set[tuple[str, str]]:
    """Pairs of a distribution and a requirement that the environment does not meet, without extras."""
    installed = {canonicalize_name(found.name): found for found in importlib.metadata.distributions()}
    missing = set()
    for name, distribution in installed.items():
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            found = installed.get(canonicalize_name(requirement.name))
            if found is None or not requirement.specifier.contains(found.version, prereleases=True):
                missing.add((str(name), str(canonicalize_name(requirement.name))))
    return missing


def test_only_requirements_of_airsmith_are_overridden():
    assert unmet() == OVERRIDDEN


@pytest.mark.parametrize(
    "module", ["datasets", "matplotlib.pyplot", "mlflow", "tensorboardX", "trl", "airsmith_stages.train"]
)
def test_the_imports_of_a_training_succeed(module: str):
    importlib.import_module(module)


def test_the_versions_are_those_that_optimum_neuron_pins_for_training():
    metadata = importlib.metadata.distribution("optimum-neuron")
    pinned = [Requirement(line) for line in metadata.requires or ()]
    training = {
        pin.name: pin.specifier
        for pin in pinned
        if pin.name in ("transformers", "accelerate", "peft", "trl", "optimum")
        and (pin.marker is None or pin.marker.evaluate({"extra": "training"}))
    }
    assert training.keys() == {"transformers", "accelerate", "peft", "trl", "optimum"}
    for name, specifier in training.items():
        assert specifier.contains(importlib.metadata.version(name)), name
