"""A partial compile cache is kept as long as a training checkpoint: while a run can resume from it."""

from __future__ import annotations

from collections.abc import Callable

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from tests.support.janitor import only_active, tidy
from tests.support.runs import finish_stages, new_run, publish_artifact, publish_checkpoint

AdvanceClock = Callable[..., None]
BACKEND = {"name": "neuron_xla", "instance_type": "trn1.2xlarge", "devices": 1}


def compiling_run(store: Store, run_id: str) -> Run:
    """A run that has the inputs of its training, but no compiled graphs."""
    run = new_run(store, run_id)
    spec = run.read_spec()
    fields = spec.recipe.model_dump(mode="json")
    method = {**fields["method"], "target_modules": ["q_proj", "v_proj"]}
    dataset = {**fields["dataset"], "packing": "none", "max_length": 2048}
    training = {**fields["training"], "eval_steps": None}
    recipe = Recipe.model_validate(
        {**fields, "backend": BACKEND, "method": method, "dataset": dataset, "training": training}
    )
    run.write_spec(spec.model_copy(update={"recipe": recipe, "plan": make_plan(recipe)}))
    finish_stages(run, "mirror_model", "mirror_dataset", "tokenize")
    return run


def key_of(run: Run, stage: str) -> str:
    return checkpoint_key(STAGES[stage], run.read_spec(), run.input_pointers(STAGES[stage]))


def test_a_live_run_keeps_its_partial_cache_and_its_checkpoints(store: Store, advance_clock: AdvanceClock) -> None:
    run = compiling_run(store, "now")
    kept = [publish_checkpoint(store, key_of(run, stage), 5) for stage in ("compile", "train")]
    unused = publish_checkpoint(store, "f" * 64, 5)
    advance_clock(days=100)
    assert [one.name for one in tidy(store, only_active(run))["checkpoints"].deleted] == [unused]
    for folder in kept:
        assert open_artifact(store, folder) is not None


def test_a_partial_cache_is_removed_sooner_if_the_complete_one_exists(
    store: Store, advance_clock: AdvanceClock
) -> None:
    run = compiling_run(store, "done")
    partial = publish_checkpoint(store, key_of(run, "compile"), 5)
    output = look_up_output(run, run.read_spec(), "compile")
    publish_artifact(store, output.type, output.digest)
    run.write_pointer(look_up_output(run, run.read_spec(), "compile").pointer("compile"))
    advance_clock(days=6)
    assert not tidy(store)["checkpoints"].found
    advance_clock(days=8)
    assert [one.name for one in tidy(store)["checkpoints"].deleted] == [partial]
