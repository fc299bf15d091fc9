"""A recipe's batch does not depend on devices, and a backend refuses what it cannot run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import check_nodes, make_plan, solve_batch, stage_names
from airsmith.recipe import Recipe
from airsmith.settings import Settings


def recipe_with(**groups: Any) -> Recipe:
    dataset = {"id": "c/d", "validation_fraction": 0.1}
    return Recipe.model_validate({"name": "x", "model": {"id": "a/b"}, "dataset": dataset, **groups})


@given(total=st.integers(1, 512), most=st.integers(1, 64), devices=st.integers(1, 16))
def test_the_total_batch_is_what_the_recipe_says(total: int, most: int, devices: int) -> None:
    recipe = recipe_with(training={"total_train_batch_size": total, "max_per_device_train_batch_size": most})
    if total % devices:
        with pytest.raises(AirsmithError) as caught:
            solve_batch(recipe, devices)
        proposed = [int(word) for word in caught.value.hint.rstrip(".").split() if word.isdigit()]
        assert proposed
        assert all(batch % devices == 0 and abs(batch - total) < devices for batch in proposed)
        return
    batch = solve_batch(recipe, devices)
    assert batch.per_device_train_batch_size <= most
    assert batch.per_device_train_batch_size * batch.gradient_accumulation_steps * devices == total


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"method": {"name": "qlora"}}, "bitsandbytes"),
        ({"training": {"precision": "float16"}}, "training.precision"),
        ({"backend": {"tensor_parallel_size": 2}}, r"backend\.tensor_parallel_size is set"),
        ({"evaluate": {"backend": "neuron_native"}}, r"evaluate\.backend is 'neuron_native'"),
    ],
)
def test_what_a_backend_cannot_run_is_refused_with_the_reason(groups: dict[str, Any], said: str) -> None:
    with pytest.raises(AirsmithError, match=said) as caught:
        make_plan(recipe_with(**groups))
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    assert caught.value.hint


def test_a_full_training_on_several_devices_is_consolidated() -> None:
    full = {"method": {"name": "full"}}
    together = make_plan(recipe_with(**full, backend={"devices": 2}))
    assert together.names()[3:6] == ["train", "consolidate", "merge"]
    assert together.stage("consolidate").image == "cpu"
    assert together.batch.data_parallel_size == 2
    for groups in ({**full}, {"backend": {"devices": 2}}):
        assert not make_plan(recipe_with(**groups)).has("consolidate")


def test_several_nodes_are_refused_where_there_is_one_machine() -> None:
    several = recipe_with(backend={"nodes": 2})
    with pytest.raises(AirsmithError, match=r"backend\.nodes is 2"):
        check_nodes(several, Settings(runtime="local"))
    check_nodes(several, Settings(runtime="kubernetes"))
    check_nodes(recipe_with(backend={"nodes": 1, "job": "rayjob"}), Settings(runtime="local"))


def test_a_training_that_ray_starts_has_an_image_with_ray_and_all_else_has_not() -> None:
    plan = make_plan(recipe_with(backend={"nodes": 2, "job": "rayjob"}))
    assert [stage.stage for stage in plan.stages if stage.image == "train-cpu-ray"] == ["train"]
    for backend in ({"nodes": 1, "job": "rayjob"}, {"nodes": 2}, {"nodes": 2, "job": "trainjob"}):
        assert make_plan(recipe_with(backend=backend)).stage("train").image == "train-cpu"


def test_a_recipe_that_serves_nothing_ends_with_its_registration() -> None:
    assert stage_names(recipe_with(serve={"enabled": False}))[-1] == "register"
    assert stage_names(recipe_with())[-2:] == ("deploy", "smoke_test")


def test_stages_that_move_bytes_run_without_torch() -> None:
    images = {stage.stage: stage.image for stage in make_plan(recipe_with()).stages}
    assert {images[stage] for stage in ("mirror_model", "mirror_dataset", "register", "smoke_test")} == {"cpu"}
