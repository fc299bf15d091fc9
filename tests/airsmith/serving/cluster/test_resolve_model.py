"""What an endpoint on a cluster serves follows from the run and from its current revision."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airsmith.artifacts.layout import artifact_folder
from airsmith.artifacts.read import Artifact
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, record_current
from airsmith.serving.cluster.resolve_model import resolve_served_model
from airsmith.serving.cluster.served_model import ServedAdapter
from tests.support.local_endpoints import LocalHost
from tests.support.registry import new_revision
from tests.support.runs import finish_stage_with, publish_artifact

ADAPTER_MODE = {"serve": {"name": "shared", "mode": "adapter"}}


def publish_json(local_host: LocalHost, kind: str, digest: str, name: str, content: Any) -> Artifact:
    return publish_artifact(local_host.store, kind, digest, {name: json.dumps(content).encode()})


def adapter_run(
    local_host: LocalHost, name: str, *, base: str = "base", lora: dict[str, Any] | None = None, **recipe: Any
) -> Run:
    """A run that has trained an adapter with the name of its recipe."""
    run = local_host.new_run(name=name, **{**ADAPTER_MODE, **recipe})
    outputs = {
        "mirror_model": publish_json(local_host, ArtifactType.BASE_MODEL, base, "config.json", {"dtype": "bfloat16"}),
        "train": publish_json(local_host, ArtifactType.ADAPTER, name, "adapter_config.json", lora or {"r": 16}),
    }
    for stage, artifact in outputs.items():
        finish_stage_with(run, stage, artifact)
    return run


def record_endpoint(local_host: LocalHost, base: str = "base", **adapters: str) -> Endpoint:
    """An endpoint that serves these adapters."""
    served = new_revision(model=artifact_folder("base_model", base), adapters=adapters, namespace="n")
    return record_current(local_host.store, "shared", served)


@pytest.fixture
def merged_run(local_host: LocalHost) -> Run:
    folder = local_host.folder / "files"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": "float16"}))
    return local_host.new_run(files=folder)


def test_a_merged_model_has_the_dtype_of_its_weights(merged_run: Run):
    model = resolve_served_model(merged_run, None)
    assert (model.artifact, model.dtype, model.version) == ("artifacts/model/m1", "float16", 1)
    assert model.files.startswith("artifacts/model/m1/attempt=")
    assert (model.adapters, model.model_name) == ((), "tiny")


def test_every_revision_has_its_own_object_name(merged_run: Run):
    assert resolve_served_model(merged_run, None).object_name != resolve_served_model(merged_run, None).object_name


def test_an_adapter_is_served_on_its_base_with_the_name_of_the_recipe(local_host: LocalHost):
    model = resolve_served_model(adapter_run(local_host, "mine"), None)
    assert (model.artifact, model.dtype, model.model_name) == ("artifacts/base_model/base", "bfloat16", "mine")
    assert model.adapters == (ServedAdapter("mine", "artifacts/adapter/mine", 16),)


def test_the_recipe_can_set_the_dtype_of_the_base(local_host: LocalHost):
    run = adapter_run(local_host, "mine", model={"id": "tests/tiny", "dtype": "float32"})
    assert resolve_served_model(run, None).dtype == "float32"


def test_a_new_adapter_replaces_its_predecessor_and_keeps_the_others(local_host: LocalHost):
    adapter_run(local_host, "other", lora={"r": 4, "rank_pattern": {"q_proj": 64}})
    current = record_endpoint(local_host, other="artifacts/adapter/other", mine="artifacts/adapter/old")
    model = resolve_served_model(adapter_run(local_host, "mine"), current)
    assert {(adapter.name, adapter.artifact, adapter.rank) for adapter in model.adapters} == {
        ("other", "artifacts/adapter/other", 64), ("mine", "artifacts/adapter/mine", 16),
    }  # fmt: skip


def test_an_adapter_on_another_base_is_refused(local_host: LocalHost):
    adapter_run(local_host, "other", base="second")
    current = record_endpoint(local_host, base="second", other="artifacts/adapter/other")
    with pytest.raises(AirsmithError, match="serves other with base model artifacts/base_model/second") as refused:
        resolve_served_model(adapter_run(local_host, "mine"), current)
    assert refused.value.kind is ErrorKind.BAD_RECIPE


def test_a_single_adapter_can_change_the_base(local_host: LocalHost):
    current = record_endpoint(local_host, base="second", mine="artifacts/adapter/old")
    assert resolve_served_model(adapter_run(local_host, "mine"), current).artifact == "artifacts/base_model/base"


def test_a_full_model_is_refused_in_adapter_mode(local_host: LocalHost):
    run = adapter_run(local_host, "mine")
    full = publish_json(local_host, ArtifactType.MODEL, "full", "config.json", {})
    finish_stage_with(run, "train", full)
    with pytest.raises(AirsmithError, match=r"serve\.mode is 'adapter', but the output .*full is of type model"):
        resolve_served_model(run, None)


def test_a_missing_adapter_is_named(local_host: LocalHost):
    current = record_endpoint(local_host, other="artifacts/adapter/gone")
    with pytest.raises(AirsmithError, match="artifacts/adapter/gone no longer exists") as refused:
        resolve_served_model(adapter_run(local_host, "mine"), current)
    assert refused.value.kind is ErrorKind.NOT_FOUND


def test_a_run_without_a_training_is_refused(local_host: LocalHost):
    with pytest.raises(AirsmithError, match="deploy needs the output of train"):
        resolve_served_model(local_host.new_run(**ADAPTER_MODE), None)


def test_engine_transformers_is_refused_on_a_cluster(local_host: LocalHost):
    with pytest.raises(AirsmithError, match=r"serve\.engine is 'transformers'"):
        resolve_served_model(local_host.new_run(serve={"engine": "transformers"}), None)
