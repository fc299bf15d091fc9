"""A compile cache that is not whole yet is kept like a training's checkpoints: for whoever goes on, and no longer."""

from __future__ import annotations

from collections.abc import Callable

from workshop import active, checkpoint, make, new_run, publish, tidy

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import look_up_output
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

Later = Callable[..., None]
BACKEND = {"name": "neuron_xla", "instance_type": "trn1.2xlarge", "devices": 1}


def compiling_run(store: Store, run_id: str) -> Run:
    """A run whose training has its inputs and waits for its graphs."""
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
    make(run, "mirror_model", "mirror_dataset", "tokenize")
    return run


def key_of(run: Run, stage: str) -> str:
    return checkpoint_key(STAGES[stage], run.read_spec(), run.input_pointers(STAGES[stage]))


def test_it_stays_while_its_run_is_at_work_as_do_checkpoints_before_the_graphs_are_there(
    store: Store, later: Later
) -> None:
    run = compiling_run(store, "now")
    mine = [checkpoint(store, key_of(run, stage), 5) for stage in ("compile", "train")]
    nobodys = checkpoint(store, "f" * 64, 5)
    later(days=100)
    assert [one.name for one in tidy(store, active(run))["checkpoints"].deleted] == [nobodys]
    for folder in mine:
        assert open_artifact(store, folder) is not None


def test_it_goes_sooner_once_the_whole_cache_is_there(store: Store, later: Later) -> None:
    run = compiling_run(store, "done")
    rest = checkpoint(store, key_of(run, "compile"), 5)
    wanted = look_up_output(run, run.read_spec(), "compile")
    publish(store, wanted.location, wanted.type, wanted.digest)
    run.write_pointer(look_up_output(run, run.read_spec(), "compile").pointer("compile"))
    later(days=6)
    assert not tidy(store)["checkpoints"].found
    later(days=8)
    assert [one.name for one in tidy(store)["checkpoints"].deleted] == [rest]
