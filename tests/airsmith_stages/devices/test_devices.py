from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import TrainingArguments

from airsmith.backends import get_backend
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.operation import BackendName
from airsmith_stages.devices import cpu, get_device, neuron_native


def test_an_unknown_backend_is_refused_with_a_list_of_the_known() -> None:
    with pytest.raises(AirsmithError, match="'tpu'") as refused:
        get_device("tpu")
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert "cpu" in refused.value.hint


def recipe_of(precision: str, method: str = "lora") -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"id": "a/b"},
            "dataset": {"id": "c/d", "validation_fraction": 0.1},
            "method": {"name": method},
            "training": {"precision": precision},
        }
    )


@pytest.mark.parametrize("backend", ["cpu", "cuda", "rocm", "neuron_native"])
def test_every_precision_has_arguments_that_transformers_supports(backend: str) -> None:
    known = {field.name for field in fields(TrainingArguments)}
    for precision in get_backend(backend).precisions:
        arguments = get_device(backend).training_arguments(recipe_of(precision))
        assert set(arguments) <= known
        autocast = {name for name in ("bf16", "fp16") if arguments.get(name)}
        assert autocast == {"float32": set(), "bfloat16": {"bf16"}, "float16": {"fp16"}}[precision]
        assert arguments.get("use_cpu", False) is (backend == "cpu")


def test_only_cuda_quantizes_the_base_and_only_for_qlora() -> None:
    for backend in ("cpu", "cuda", "rocm", "neuron_xla", "neuron_native"):
        assert get_device(backend).loading_arguments(recipe_of("bfloat16")) == {}
    loading = get_device("cuda").loading_arguments(recipe_of("bfloat16", "qlora"))
    quantization = loading["quantization_config"]
    assert quantization.load_in_4bit
    assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant) == ("nf4", True)
    assert quantization.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["cuda", "rocm"])
def test_a_node_without_a_gpu_is_refused(backend: str) -> None:
    with pytest.raises(AirsmithError, match="has no GPU: torch sees 0") as refused:
        get_device(backend).prepare()
    assert refused.value.kind is ErrorKind.DEVICE_ERROR


def test_a_node_without_a_neuron_core_is_refused() -> None:
    with pytest.raises(AirsmithError, match="has no NeuronCore: torch sees 0") as refused:
        get_device("neuron_native").prepare()
    assert refused.value.kind is ErrorKind.DEVICE_ERROR


def test_an_image_without_torch_xla_is_refused() -> None:
    with pytest.raises(AirsmithError, match=r"torch_xla, .* is not installed in") as refused:
        get_device("neuron_xla").prepare()
    assert refused.value.kind is ErrorKind.DEVICE_ERROR


def test_each_accelerator_names_the_module_that_trains_on_it() -> None:
    own = {name: get_device(name).training_module for name in get_args(BackendName)}
    assert own.pop("neuron_xla") == "airsmith_stages.neuron.training"
    assert set(own.values()) == {"airsmith_stages.training.stage"}


def test_native_neuron_on_a_cpu_uses_no_device() -> None:
    on_cpu = replace(neuron_native.DEVICE, torch_device="cpu")
    on_cpu.prepare()
    assert on_cpu.training_arguments(recipe_of("float32"))["use_cpu"]
    assert not neuron_native.DEVICE.training_arguments(recipe_of("float32"))["use_cpu"]
    assert on_cpu.peak_memory_bytes() > 0


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 8), (None, 8)]
)
def test_the_thread_count_respects_the_cpu_limit_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, cores: int
) -> None:
    monkeypatch.setattr(cpu, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cpu.thread_count() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu.thread_count() == 3


def test_preparing_sets_the_process_up_before_torch_is_loaded() -> None:
    code = """
import os, sys
from airsmith_stages.devices import get_device
import airsmith_stages.train
accelerator = get_device("cpu")
assert "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ
accelerator.prepare()
import torch
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
assert torch.are_deterministic_algorithms_enabled()
assert torch.get_num_threads() == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"OMP_NUM_THREADS": "2"})
