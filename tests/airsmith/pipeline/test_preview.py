"""A preview of a run has its pods, its memory and its cost, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.preview import Preview, preview_run
from airsmith.settings import BackendSettings, Image, KubernetesSettings, Settings
from tests.support.model_configs import LLAMA_8B

WriteRecipe = Callable[..., Path]
CUDA = {"name": "cuda", "devices": 4, "instance_type": "p5.48xlarge"}


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_8B))
    return file


@pytest.fixture
def new_preview(write_recipe: WriteRecipe, settings: Settings) -> Callable[..., Preview]:
    def new_preview(config: Path | None = None, changed: dict[str, Any] | None = None, **sections: Any) -> Preview:
        return preview_run(write_recipe(**sections), settings.model_copy(update=changed or {}), config)

    return new_preview


def test_every_stage_and_the_endpoint_have_a_pod(new_preview: Callable[..., Preview]):
    preview = new_preview(backend=CUDA)
    assert [pod.stage for pod in preview.pods] == [stage.stage for stage in preview.plan.stages]
    train, tokenize = preview.pod("train"), preview.pod("tokenize")
    assert (train.devices, train.device) == (4, "nvidia.com/gpu")
    assert train.node_selector == {"node.kubernetes.io/instance-type": "p5.48xlarge"}
    assert not tokenize.device
    assert preview.pod("deploy").image == "vllm-cuda"


def test_an_image_has_its_reference_if_the_settings_have_one(new_preview: Callable[..., Preview]):
    built = KubernetesSettings(images={"train-cuda": Image(reference="registry.example/train-cuda@sha256:0")})
    preview = new_preview(backend=CUDA, changed={"kubernetes": built})
    assert preview.pod("train").image == "registry.example/train-cuda@sha256:0"
    assert preview.pod("mirror_model").image == "cpu"


def test_the_price_counts_the_nodes_of_the_recipe(new_preview: Callable[..., Preview]):
    node = new_preview(backend={**CUDA, "nodes": 2}, training={"total_train_batch_size": 32}).pod("train").node
    assert node is not None
    assert (node.instance_type, node.nodes, node.usd_per_hour) == ("p5.48xlarge", 2, 2 * 55.04)


def test_the_default_instance_type_is_the_cheapest_that_fits(new_preview: Callable[..., Preview]):
    node = new_preview(backend={"name": "cuda"}).pod("train").node
    assert node is not None
    assert (node.instance_type, node.is_chosen) == ("g6.8xlarge", False)


def test_the_settings_can_select_the_instance_type(new_preview: Callable[..., Preview]):
    selector = {"node.kubernetes.io/instance-type": "g5.8xlarge"}
    changed = {"backends": {"cuda": BackendSettings(node_selector=selector)}}
    node = new_preview(backend={"name": "cuda"}, changed=changed).pod("train").node
    assert node is not None
    assert (node.instance_type, node.is_chosen) == ("g5.8xlarge", True)


@pytest.mark.parametrize("instance_type", ["Standard_ND96isr_MI300X_v5", "mars.9xlarge"])
def test_an_unknown_price_is_none(new_preview: Callable[..., Preview], instance_type: str):
    preview = new_preview(backend={"name": "rocm", "instance_type": instance_type})
    node = preview.pod("train").node
    assert node is not None
    assert node.usd_per_hour is None
    assert (preview.available_bytes is None) == (instance_type == "mars.9xlarge")


def test_available_memory_is_that_of_the_device_or_the_pod(new_preview: Callable[..., Preview], config_file: Path):
    assert new_preview(config_file, backend=CUDA).available_bytes == 79.6 * 1024**3
    assert new_preview(config_file).available_bytes == 4 * 1024**3
    assert new_preview(config_file, backend={"name": "cpu", "resources": {"memory": "1G"}}).available_bytes == 10**9


def test_the_config_is_read_from_the_source_of_the_model(new_preview: Callable[..., Preview], tmp_path: Path):
    Store.open(f"file://{tmp_path}/models").write("llama/config.json", json.dumps(LLAMA_8B).encode())
    found = new_preview(model={"id": f"file://{tmp_path}/models/llama"}).memory
    assert found is not None
    assert found.parameters == 8_030_261_248
    from_hub = new_preview()
    assert from_hub.memory is None
    assert "config.json has model_type None" in from_hub.memory_unknown


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("demo/absent", "The model demo/absent does not exist"),
        ("demo/gated", "gated"),
        ("models/tickets/7", "tickets has no version"),
    ],
)
def test_without_a_config_only_the_memory_is_unknown(new_preview: Callable[..., Preview], model: str, message: str):
    preview = new_preview(model={"id": model})
    assert preview.memory is None
    assert message in preview.memory_unknown
    assert preview.pod("train")


@pytest.mark.parametrize("content", [None, "no JSON", "[]"])
def test_an_unreadable_config_file_is_an_error(
    new_preview: Callable[..., Preview], tmp_path: Path, content: str | None
):
    file = tmp_path / "given.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(AirsmithError, match=r"given\.json") as caught:
        new_preview(file)
    assert caught.value.kind in (ErrorKind.NOT_FOUND, ErrorKind.BAD_DATA)
