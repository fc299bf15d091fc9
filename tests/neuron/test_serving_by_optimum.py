"""optimum-neuron's code accepts the arguments of servers on Inf2 and Trn1; its vLLM is not installed here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

GOLDEN = Path(__file__).parents[1] / "airsmith/serving/cluster/golden"


def container(place: str, name: str) -> dict:
    (deployment,) = (
        found for found in yaml.safe_load_all((GOLDEN / f"{place}.yaml").read_text()) if found["kind"] == "Deployment"
    )
    pod = deployment["spec"]["template"]["spec"]
    return next(found for found in (*pod["initContainers"], *pod["containers"]) if found["name"] == name)


@pytest.mark.parametrize(("place", "cores"), [("trn1.32xlarge", 8), ("inf2.24xlarge", 12)])
def test_the_library_parses_the_arguments_of_the_export(place: str, cores: int):
    from optimum.commands.export import neuronx

    parser = argparse.ArgumentParser()
    neuronx.parse_args_neuronx(parser)
    for action in parser._actions:
        action.required = action.required and action.dest != "instance_type"  # otherwise detected
    export = container(place, "export")
    parsed = parser.parse_args(export["args"])
    assert (parsed.model, parsed.task, str(parsed.output)) == ("/scratch/model", "text-generation", "/scratch/exported")
    assert (parsed.batch_size, parsed.sequence_length, parsed.tensor_parallel_size) == (
        4 if cores == 8 else 8,
        2176,
        cores,
    )
    assert export["command"][-1] == "optimum.exporters.neuron"


def test_the_library_looks_up_a_plain_model_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reason for the export: when this test fails, the plugin can load the model directly."""
    from optimum.neuron.cache import hub_cache

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_attention_heads": 4, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    hub_cache.hub_registry_path.cache_clear()
    with pytest.raises(OfflineModeIsEnabled):
        hub_cache.select_hub_cached_entries(str(tmp_path), task="text-generation", batch_size=1)


def test_the_plugin_does_not_support_lora():
    import optimum.neuron

    worker = Path(optimum.neuron.__file__).parent / "vllm/worker.py"
    assert "assert self.lora_config is None" in worker.read_text()
