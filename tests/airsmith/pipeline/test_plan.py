"""The total batch size does not depend on devices, and a backend refuses what it does not support."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import check_nodes, make_plan, solve_batch, stage_names
from airsmith.settings import Settings
from tests.support.recipes import new_recipe


@given(total=st.integers(1, 512), max_per_device=st.integers(1, 64), devices=st.integers(1, 16))
def test_the_total_batch_size_is_that_of_the_recipe(total: int, max_per_device: int, devices: int) -> None:
    recipe = new_recipe(training={"total_train_batch_size": total, "max_per_device_train_batch_size": max_per_device})
    if total % devices:
        with pytest.raises(AirsmithError) as caught:
            solve_batch(recipe, devices)
        proposals = [int(word) for word in caught.value.hint.rstrip(".").split() if word.isdigit()]
        assert proposals
        assert all(batch % devices == 0 and abs(batch - total) < devices for batch in proposals)
        return
    batch = solve_batch(recipe, devices)
    assert batch.per_device_train_batch_size <= max_per_device
    assert batch.per_device_train_batch_size * batch.gradient_accumulation_steps * devices == total


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"method": {"name": "qlora"}}, "bitsandbytes"),
        ({"training": {"precision": "float16"}}, "training.precision"),
        ({"backend": {"tensor_parallel_size": 2}}, r"backend\.tensor_parallel_size is set"),
        ({"evaluate": {"backend": "neuron_native"}}, r"evaluate\.backend is 'neuron_native'"),
    ],
)
def test_what_a_backend_does_not_support_is_refused_with_the_reason(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(AirsmithError, match=message) as caught:
        make_plan(new_recipe(**groups))
    assert caught.value.kind is ErrorKind.BAD_RECIPE
    assert caught.value.hint


def test_a_full_training_on_several_devices_has_a_consolidate_stage() -> None:
    full = {"method": {"name": "full"}}
    plan = make_plan(new_recipe(**full, backend={"devices": 2}))
    assert plan.names()[3:6] == ["train", "consolidate", "merge"]
    assert plan.stage("consolidate").image == "cpu"
    assert plan.batch.data_parallel_size == 2
    for groups in ({**full}, {"backend": {"devices": 2}}):
        assert not make_plan(new_recipe(**groups)).has("consolidate")


def test_several_nodes_are_refused_on_the_local_runtime() -> None:
    two_nodes = new_recipe(backend={"nodes": 2})
    with pytest.raises(AirsmithError, match=r"backend\.nodes is 2"):
        check_nodes(two_nodes, Settings(runtime="local"))
    check_nodes(two_nodes, Settings(runtime="kubernetes"))
    check_nodes(new_recipe(backend={"nodes": 1, "job": "rayjob"}), Settings(runtime="local"))


def test_only_the_training_of_a_rayjob_has_the_image_with_ray() -> None:
    plan = make_plan(new_recipe(backend={"nodes": 2, "job": "rayjob"}))
    assert [stage.stage for stage in plan.stages if stage.image == "train-cpu-ray"] == ["train"]
    for backend in ({"nodes": 1, "job": "rayjob"}, {"nodes": 2}, {"nodes": 2, "job": "trainjob"}):
        assert make_plan(new_recipe(backend=backend)).stage("train").image == "train-cpu"


def test_without_serving_register_is_the_last_stage() -> None:
    assert stage_names(new_recipe(serve={"enabled": False}))[-1] == "register"
    assert stage_names(new_recipe())[-2:] == ("deploy", "smoke_test")


def test_stages_that_need_no_torch_have_the_cpu_image() -> None:
    images = {stage.stage: stage.image for stage in make_plan(new_recipe()).stages}
    assert {images[stage] for stage in ("mirror_model", "mirror_dataset", "register", "smoke_test")} == {"cpu"}
