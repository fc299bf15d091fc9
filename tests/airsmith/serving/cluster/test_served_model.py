"""What an endpoint in a cluster serves follows from the run and from what the endpoint serves already."""

from __future__ import annotations

import json
from typing import Any

import pytest
from machine import Machine

from airsmith.artifacts.layout import artifact_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.contracts.cache import Output
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Deployment, Endpoint, swap_endpoint
from airsmith.serving.cluster.served import ServedAdapter
from airsmith.serving.cluster.served_model import model_to_serve

ADAPTER_MODE = {"serve": {"name": "shared", "mode": "adapter"}}


def publish(machine: Machine, kind: str, digest: str, name: str, content: Any) -> Artifact:
    with write_artifact(
        machine.store, artifact_folder(kind, digest), type=kind, digest=digest, inputs={}, versions={}
    ) as writer:
        writer.add_bytes(name, json.dumps(content).encode())
        return writer.publish()


def adapter_run(
    machine: Machine, name: str, *, base: str = "base", lora: dict[str, Any] | None = None, **recipe: Any
) -> Run:
    """A run that has trained an adapter of its recipe's name."""
    run = machine.run(name=name, **{**ADAPTER_MODE, **recipe})
    outputs = {
        "mirror_model": publish(machine, ArtifactType.BASE_MODEL, base, "config.json", {"dtype": "bfloat16"}),
        "train": publish(machine, ArtifactType.ADAPTER, name, "adapter_config.json", lora or {"r": 16}),
    }
    for stage, artifact in outputs.items():
        StageRecord.begin(stage, run).finish(Output.of_artifact(artifact), cached=False)
    return run


def endpoint_with(machine: Machine, base: str = "base", **adapters: str) -> Endpoint:
    """The endpoint as it serves these adapters."""
    served = Deployment(
        engine="vllm", address="http://a", model_name="m", model_uri=artifact_folder("base_model", base),
        adapters=adapters, deployment="d", namespace="n",
    )  # fmt: skip
    return swap_endpoint(machine.store, "shared", served)


@pytest.fixture
def merged(machine: Machine) -> Run:
    folder = machine.folder / "files"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": "float16"}))
    return machine.run(files=folder)


def test_a_merged_model_is_served_in_the_type_of_its_weights(merged: Run):
    model = model_to_serve(merged, None)
    assert (model.artifact, model.dtype, model.version) == ("artifacts/model/m1", "float16", 1)
    assert model.files.startswith("artifacts/model/m1/attempt=")
    assert (model.adapters, model.model_name) == ((), "tiny")


def test_every_start_is_another_one(merged: Run):
    assert model_to_serve(merged, None).object_name != model_to_serve(merged, None).object_name


def test_an_adapter_is_served_on_its_base_under_the_recipes_name(machine: Machine):
    model = model_to_serve(adapter_run(machine, "mine"), None)
    assert (model.artifact, model.dtype, model.model_name) == ("artifacts/base_model/base", "bfloat16", "mine")
    assert model.adapters == (ServedAdapter("mine", "artifacts/adapter/mine", 16),)


def test_the_recipe_may_cast_the_base(machine: Machine):
    run = adapter_run(machine, "mine", model={"id": "tests/tiny", "dtype": "float32"})
    assert model_to_serve(run, None).dtype == "float32"


def test_other_recipes_adapters_stay_and_the_recipes_own_is_replaced(machine: Machine):
    adapter_run(machine, "other", lora={"r": 4, "rank_pattern": {"q_proj": 64}})
    current = endpoint_with(machine, other="artifacts/adapter/other", mine="artifacts/adapter/old")
    model = model_to_serve(adapter_run(machine, "mine"), current)
    assert {(adapter.name, adapter.artifact, adapter.rank) for adapter in model.adapters} == {
        ("other", "artifacts/adapter/other", 64), ("mine", "artifacts/adapter/mine", 16),
    }  # fmt: skip


def test_adapters_of_two_bases_never_share_a_server(machine: Machine):
    adapter_run(machine, "other", base="second")
    current = endpoint_with(machine, base="second", other="artifacts/adapter/other")
    with pytest.raises(AirsmithError, match="serves other on artifacts/base_model/second") as refused:
        model_to_serve(adapter_run(machine, "mine"), current)
    assert refused.value.kind is ErrorKind.BAD_RECIPE


def test_who_serves_alone_may_change_the_base(machine: Machine):
    current = endpoint_with(machine, base="second", mine="artifacts/adapter/old")
    assert model_to_serve(adapter_run(machine, "mine"), current).artifact == "artifacts/base_model/base"


def test_what_is_no_adapter_is_not_served_as_one(machine: Machine):
    run = adapter_run(machine, "mine")
    full = publish(machine, ArtifactType.MODEL, "full", "config.json", {})
    StageRecord.begin("train", run).finish(Output.of_artifact(full), cached=False)
    with pytest.raises(AirsmithError, match=r"serve\.mode is 'adapter', but .*full is a model"):
        model_to_serve(run, None)


def test_an_adapter_that_is_gone_is_named(machine: Machine):
    current = endpoint_with(machine, other="artifacts/adapter/gone")
    with pytest.raises(AirsmithError, match="artifacts/adapter/gone is not in the store any more") as refused:
        model_to_serve(adapter_run(machine, "mine"), current)
    assert refused.value.kind is ErrorKind.NOT_FOUND


def test_a_run_that_has_not_come_so_far_is_told(machine: Machine):
    with pytest.raises(AirsmithError, match="deploy needs the output of train"):
        model_to_serve(machine.run(**ADAPTER_MODE), None)


def test_no_cluster_serves_with_transformers(machine: Machine):
    with pytest.raises(AirsmithError, match=r"serve\.engine is 'transformers'"):
        model_to_serve(machine.run(serve={"engine": "transformers"}), None)
