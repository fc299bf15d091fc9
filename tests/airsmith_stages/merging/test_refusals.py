"""Adapters and bases that cannot be merged correctly are refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from airsmith.errors import AirsmithError, ErrorKind
from tests.support.model_families import merge_folders, save_model, save_peft_adapter

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    save_model(folder / "base", "llama")
    save_peft_adapter(folder / "base", folder / "adapter", target_modules=["q_proj", "v_proj"])
    return folder


@pytest.fixture
def refusal(sound: Path, tmp_path: Path) -> Callable[..., AirsmithError]:
    """Merges an adapter with changed tensors or config and returns the error."""

    def refusal(
        change: Callable[[dict[str, Any]], object] = id, base: Path | None = None, **config: Any
    ) -> AirsmithError:
        tensors = load_file(sound / "adapter/adapter_model.safetensors")
        change(tensors)
        broken = tmp_path / "broken"
        broken.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, broken / "adapter_model.safetensors")
        known = json.loads((sound / "adapter/adapter_config.json").read_text())
        (broken / "adapter_config.json").write_text(json.dumps({**known, **config}))
        with pytest.raises(AirsmithError) as refused:
            merge_folders(base or sound / "base", broken, tmp_path / "merged")
        return refused.value

    return refusal


@pytest.mark.parametrize(
    ("change", "expected_message"),
    [
        (lambda t: t.update({"base_model.model.model.layers.9.up_proj.lora_A.weight": torch.ones(4, 32)}), "lacks"),
        (lambda t: t.update({"base_model.model.head.weight": torch.ones(4, 32)}), "head.weight matches no parameter"),
        (
            lambda t: t.update({"model.layers.0.extra": torch.ones(4)}),
            "layers.0.extra matches no parameter of the base",
        ),
        (lambda t: t.pop(f"{Q_PROJ}.lora_A.weight"), "lacks model.layers.0.self_attn.q_proj.lora_A"),
        (
            lambda t: t.update({f"{Q_PROJ}.lora_A.weight": torch.ones(4, 16)}),
            r"\[32, 16\].*the base's parameter has shape \[32, 32\]",
        ),
        (lambda t: t.update({f"{Q_PROJ}.lora_B.weight": torch.ones(32, 8)}), "q_proj.lora_B"),
        (lambda t: t[f"{Q_PROJ}.lora_A.weight"].fill_(float("nan")), "q_proj.lora_A.weight contains NaN"),
        (lambda t: t[f"{Q_PROJ}.lora_B.weight"].fill_(float("inf")), "q_proj.lora_B.weight contains NaN"),
        (lambda t: [t[f"{Q_PROJ}.lora_{part}.weight"].fill_(1e30) for part in "AB"], "merged .*q_proj.* contains NaN"),
        (lambda t: [tensor.zero_() for name, tensor in t.items() if "lora_B" in name], "it changes nothing"),
        (lambda t: [tensor.zero_() for name, tensor in t.items() if "lora_A" in name], "changed no tensor"),
        (lambda t: t.update({f"{Q_PROJ}.weight": torch.ones(32, 16)}), r"is for shape \[16\]"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_apply_completely(
    refusal: Callable[..., AirsmithError], change: Callable[[dict[str, Any]], object], expected_message: str
) -> None:
    error = refusal(change)
    assert error.kind is ErrorKind.VERIFICATION_FAILED
    assert error.hint
    assert re.search(expected_message, error.message), error.message


@pytest.mark.parametrize(
    ("config", "expected_message"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora"),
    ],
)
def test_an_adapter_of_another_method(
    refusal: Callable[..., AirsmithError], config: dict[str, Any], expected_message: str
) -> None:
    assert expected_message in refusal(**config).message


def test_two_names_for_the_same_target(refusal: Callable[..., AirsmithError]) -> None:
    def change(tensors: dict[str, Any]) -> None:
        for part in ("lora_A", "lora_B"):
            name = f"{Q_PROJ}.{part}.weight"
            tensors[name.replace("model.model.layers", "model.transformer.model.layers")] = tensors[name].clone()

    assert "twice" in refusal(change).message


def test_a_quantized_base(refusal: Callable[..., AirsmithError], tmp_path: Path) -> None:
    base = tmp_path / "quantized"
    save_model(base, "llama")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    assert "quantized (fp8)" in refusal(base=base).message


def test_a_base_that_changes_during_reading(sound: Path, tmp_path: Path) -> None:
    from airsmith_stages.merging.model import merge_model
    from airsmith_stages.weights.readers import FolderReader

    class Changing(FolderReader):
        def stream(self, name: str) -> Any:
            content = b"".join(super().stream(name))
            yield content.replace(b"BF16", b"F16 ", 1) if name.startswith("model-00002") else content

    with pytest.raises(AirsmithError) as refused:
        merge_model(Changing(sound / "base"), FolderReader(sound / "adapter"), lambda name, pieces, size: list(pieces))
    assert refused.value.kind in (ErrorKind.VERIFICATION_FAILED, ErrorKind.BAD_DATA)
