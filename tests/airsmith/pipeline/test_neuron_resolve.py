"""`resolve` on Neuron reads the pinned model's config, resolves LoRA targets, and refuses what cannot be trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.resolve import RunRequest, resolve
from airsmith.settings import Settings

WriteRecipe = Callable[..., Path]
TRN1 = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
TOKEN_FROM_CONNECTION = {"hf_token": {"airflow_connection": "hub"}}


def request(file: Path, **fields: Any) -> RunRequest:
    return RunRequest(dag_id="finetune_tickets", run_id="manual__2026-01-01T00:00:00+00:00", recipe_file=file, **fields)


def test_the_spec_has_layer_names_and_parallel_sizes(write_recipe: WriteRecipe, settings: Settings, token: str):
    file = write_recipe(model={"id": "demo/llama"}, backend=TRN1, secrets=TOKEN_FROM_CONNECTION)
    spec = resolve(request(file), settings, {"hub": token}.__getitem__).read_spec()
    assert spec.recipe.method.target_modules == (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    assert spec.changed_fields == ()
    assert (spec.plan.parallel.tensor, spec.plan.batch.data_parallel_size) == (8, 4)
    assert (
        spec.toolchain_version("compile", "neuronx-cc") == spec.toolchain_version("train", "optimum-neuron") == "1.2.3"
    )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"backend": {**TRN1, "tensor_parallel_size": 16}}, "num_attention_heads 8 does not divide by 16"),
        ({"backend": TRN1, "method": {"target_modules": ["q_proj", "v_proj"]}}, "q_proj and v_proj without k_proj"),
        ({"backend": TRN1, "model": {"id": "demo/model"}}, "type None"),
    ],
)
def test_an_unsupported_model_is_refused_and_nothing_is_written(
    write_recipe: WriteRecipe, settings: Settings, token: str, sections: dict[str, Any], message: str
):
    file = write_recipe(**{"model": {"id": "demo/llama"}, "secrets": TOKEN_FROM_CONNECTION, **sections})
    with pytest.raises(AirsmithError, match=message) as caught:
        resolve(request(file), settings, {"hub": token}.__getitem__)
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    assert list(Store.open(settings.store).list("")) == []
