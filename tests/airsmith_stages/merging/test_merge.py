"""The merge stage publishes a complete model that can be served, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from airsmith.artifacts.read import Artifact
from airsmith.contracts.run import Run
from airsmith.contracts.stages import TOKENIZER, ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.stage_runner import run_stage
from tests.support.model_artifacts import ModelArtifacts, assert_no_output, run_command
from tests.support.power_cuts import power_cut_at, runs_cut_off
from tests.support.stage_runs import assert_store_is_consistent, output_of, remove_folder
from tests.support.tiny_models import load_model, load_with_adapter, logits, relative_distance, save_tiny_llama

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def test_the_command_writes_a_model_that_its_folder_alone_can_serve(artifacts: ModelArtifacts) -> None:
    base = artifacts.base_model()
    adapter = artifacts.adapter(base)
    run = artifacts.new_run(mirror_model=base, train=adapter)
    output = run_command("merge", run)
    assert "|" not in output, "a progress bar"
    artifact = output_of(run, "merge")
    assert (artifact.type, artifact.manifest.inputs) == ("model", {"mirror_model": "base", "train": "adapter"})
    assert set(artifact.names()) == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert artifact.manifest.properties[TOKENIZER] == base.manifest.properties[TOKENIZER]
    folder = artifact.download(artifacts.folder / "merged")
    shutil.move(artifacts.folder / "base", artifacts.folder / "away")
    served = AutoTokenizer.from_pretrained(folder)
    assert served.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).startswith(
        "<|im_start|>user"
    )
    expected = logits(load_with_adapter(artifacts.folder / "away", artifacts.folder / "adapter"))
    assert relative_distance(expected, logits(load_model(folder))) < 1e-5
    metrics = artifact.manifest.metrics
    assert metrics["merged_tensors"] == 2 * 7
    weights = load_file(folder / "model.safetensors")
    tuned = sum(tensor.numel() for name, tensor in weights.items() if name.endswith("_proj.weight"))
    assert 0.99 * tuned < metrics["changed_elements"] <= tuned


def rename(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def fill(part: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {
        name: torch.full_like(tensor, value) if part in name else tensor for name, tensor in tensors.items()
    }


def without(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("damage", "lora", "expected_message"),
    [
        (rename("layers.1.", "layers.7."), {}, r"layers\.7\..* matches no parameter of the base \(7 such edits\)"),
        (rename("base_model.model.", "base_model.modle."), {}, "matches no parameter of the base"),
        (without("layers.1.mlp.up_proj.lora_B"), {}, r"lacks .*layers\.1\.mlp\.up_proj\.lora_B"),
        (without("layers."), {}, "changes nothing"),
        (fill("lora_B", 0.0), {}, "zero, so it changes nothing"),
        (fill("lora_A", 0.0), {}, "changed no tensor of the base"),
        (dict, {"init_lora_weights": True}, "zero, so it changes nothing"),
        (dict, {"init_lora_weights": True, "modules_to_save": ["lm_head"]}, "changed no tensor of the base"),
        (fill("layers.0.mlp.up_proj.lora_A", float("nan")), {}, r"layers\.0\.mlp\.up_proj\.lora_A.* NaN or Inf"),
        (fill("layers.0.mlp.up_proj.lora_B", float("inf")), {}, r"layers\.0\.mlp\.up_proj\.lora_B.* NaN or Inf"),
        (fill("layers.0.mlp.up_proj.lora_", 1e30), {}, r"merged .*up_proj.* NaN or Inf"),
    ],
    ids=[
        "unused", "all unused", "lacking", "empty", "zero B", "zero A", "untrained",
        "untrained head", "nan", "inf", "overflow",
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_apply_completely_is_refused(
    artifacts: ModelArtifacts,
    damage: Callable[[dict[str, Any]], dict[str, Any]],
    lora: dict[str, Any],
    expected_message: str,
) -> None:
    base = artifacts.base_model()
    artifacts.adapter(base, "sound", **lora)
    broken = artifacts.folder / "broken"
    broken.mkdir()
    shutil.copy(artifacts.folder / "sound" / CONFIG, broken)
    save_file(damage(load_file(artifacts.folder / "sound" / WEIGHTS)), broken / WEIGHTS)
    adapter = artifacts.publish_adapter("broken", broken, base)
    run = artifacts.new_run(mirror_model=base, train=adapter)
    with pytest.raises(AirsmithError, match=expected_message) as refused:
        run_stage("merge", run)
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert_no_output(refused.value, run, "merge", ArtifactType.MODEL)


def test_an_adapter_of_another_base_is_refused_even_if_it_fits(artifacts: ModelArtifacts) -> None:
    base, other = artifacts.base_model(), artifacts.base_model("other", seed=8)
    run = artifacts.new_run(mirror_model=other, train=artifacts.adapter(base))
    with pytest.raises(AirsmithError, match="trained on base base, but this run's base is other") as refused:
        run_stage("merge", run)
    assert refused.value.kind is ErrorKind.VERIFICATION_FAILED
    assert_no_output(refused.value, run, "merge", ArtifactType.MODEL)


def test_full_training_needs_no_merge(artifacts: ModelArtifacts) -> None:
    base = artifacts.base_model()
    trained = artifacts.publish(ArtifactType.MODEL, "trained", artifacts.folder / "base")
    run = artifacts.new_run(mirror_model=base, train=trained, recipe={"method": {"name": "full"}})
    pointer = run_stage("merge", run)
    assert pointer.cached
    assert (pointer.type, pointer.location) == ("model", trained.folder)
    assert pointer.properties[TOKENIZER] == trained.manifest.properties[TOKENIZER]
    assert [info.path for info in run.store.list("artifacts/model") if info.path.endswith("manifest.json")] == [
        f"{trained.folder}/manifest.json"
    ]


class TestFolder:
    """The other files of the merged model."""

    def merged(self, artifacts: ModelArtifacts, base: Artifact, **recipe: Any) -> Path:
        run = artifacts.new_run(mirror_model=base, train=artifacts.adapter(base), recipe=recipe)
        run_stage("merge", run)
        return output_of(run, "merge").download(artifacts.folder / "merged")

    def test_the_recipe_s_chat_template_replaces_every_other(self, artifacts: ModelArtifacts) -> None:
        config = json.loads(save_tokenizer_config(artifacts))
        base = artifacts.base_model(
            files={"tokenizer_config.json": json.dumps({**config, "chat_template": "{{ 'old' }}"})}
        )
        template = "{% for message in messages %}{{ message.role }}: {{ message.content }}<|im_end|>\n{% endfor %}"
        dataset = {"id": "tests/chats", "validation_fraction": 0.1, "chat_template": template}
        folder = self.merged(artifacts, base, dataset=dataset)
        assert (folder / "chat_template.jinja").read_text() == template
        assert "old" not in (folder / "tokenizer_config.json").read_text()
        chat = [{"role": "user", "content": "Hi"}]
        assert AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, tokenize=False) == "user: Hi<|im_end|>\n"

    def test_generation_stops_at_the_end_tokens_of_the_training(self, artifacts: ModelArtifacts) -> None:
        """The config of a base model often contains only the end-of-text token."""
        base = artifacts.base_model(
            files={"generation_config.json": json.dumps({"eos_token_id": 0, "temperature": 0.7})}
        )
        folder = self.merged(artifacts, base)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = GenerationConfig.from_pretrained(folder)
        assert config.eos_token_id == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]
        assert config.temperature == 0.7

    def test_all_other_files_of_the_base_except_its_card_are_copied(self, artifacts: ModelArtifacts) -> None:
        files = {"README.md": "# Base", ".gitattributes": "", "special.json": "{}", "LICENSE": "Do as you like."}
        folder = self.merged(artifacts, artifacts.base_model(files=files))
        assert (folder / "LICENSE").read_text() == "Do as you like."
        assert (folder / "special.json").exists()
        assert not (folder / "README.md").exists()
        assert not (folder / ".gitattributes").exists()

    def test_every_file_is_readable_by_other_users(self, artifacts: ModelArtifacts) -> None:
        base = artifacts.base_model()
        run = artifacts.new_run(mirror_model=base, train=artifacts.adapter(base))
        run_stage("merge", run)
        artifact = output_of(run, "merge")
        modes = {(artifacts.folder / "store" / artifact.path(name)).stat().st_mode & 0o777 for name in artifact.names()}
        assert modes == {0o644}


def save_tokenizer_config(artifacts: ModelArtifacts) -> str:
    save_tiny_llama(artifacts.folder / "for-its-tokenizer")
    return (artifacts.folder / "for-its-tokenizer/tokenizer_config.json").read_text()


def test_a_power_cut_never_leaves_a_manifest_without_content(
    artifacts: ModelArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = artifacts.base_model()
    adapter = artifacts.adapter(base)

    def start() -> Run:
        remove_folder(artifacts.store, "artifacts/model")
        return artifacts.new_run(mirror_model=base, train=adapter)

    seen = set()
    for run in runs_cut_off("merge", start, monkeypatch):
        assert_store_is_consistent(artifacts.store)
        files = [info.path.rpartition("/")[2] for info in artifacts.store.list("artifacts/model")]
        assert "manifest.json" in files or run.pointer("merge") is None
        seen.add((bool(files), "manifest.json" in files, run.pointer("merge") is not None))
    assert seen == {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}
    remains = artifacts.new_run(mirror_model=base, train=adapter)
    assert run_stage("merge", remains).cached


def test_the_remains_of_a_power_cut_do_not_stop_the_next_attempt(
    artifacts: ModelArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = artifacts.base_model()
    run = artifacts.new_run(mirror_model=base, train=artifacts.adapter(base))
    with power_cut_at(float("inf"), monkeypatch) as calls:
        run_stage("merge", artifacts.new_run(mirror_model=base, train=artifacts.adapter(base, "same", r=2)))
    with power_cut_at(calls.index("compare_and_swap") + 1, monkeypatch):
        run_stage("merge", run)
    assert run.pointer("merge") is None
    assert not run_stage("merge", run).cached
    assert_store_is_consistent(artifacts.store)
