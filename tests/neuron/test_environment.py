"""The lock that Neuron's image is made from: what it overrides are Airsmith's own bounds, and nobody else's."""

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
    """Who asks for what and does not get it, extras aside."""
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


def test_nobody_but_airsmith_gets_another_version_than_it_asks_for():
    assert unmet() == OVERRIDDEN


@pytest.mark.parametrize(
    "module", ["datasets", "matplotlib.pyplot", "mlflow", "tensorboardX", "trl", "airsmith_stages.train"]
)
def test_what_a_training_imports_can_be_imported(module: str):
    importlib.import_module(module)


def test_it_is_what_optimum_neuron_s_training_is_pinned_to():
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
