"""Stage `train`: the base model learns the rows, and what was trained is published: an adapter or a whole model."""

from __future__ import annotations

from airsmith.contracts.cache import Output
from airsmith.contracts.stages import trains_shards
from airsmith_stages.accelerators import get_accelerator
from airsmith_stages.frame import StageContext


def run(context: StageContext) -> Output:
    """Train to the last step, from the newest checkpoint where there is one."""
    recipe = context.spec.recipe
    accelerator = get_accelerator(recipe.backend.name)
    accelerator.prepare()
    # These import torch, and `prepare` has to come before that.
    from airsmith_stages.training.fit import fit
    from airsmith_stages.training.inputs import check_fit, read_inputs
    from airsmith_stages.training.model import load_model
    from airsmith_stages.training.processes import Processes
    from airsmith_stages.training.result import check_trained, publish
    from airsmith_stages.training.sharding import shard

    processes = Processes.join(accelerator.process_group_backend)
    model = load_model(context.fetch("mirror_model"), recipe, accelerator)
    with_validation = recipe.training.eval_steps is not None
    inputs = read_inputs(context.input("tokenize"), context.scratch / "tokens", with_validation=with_validation)
    check_fit(inputs, model.base)
    if trains_shards(recipe):
        model = shard(model, recipe.training.precision)
    trained = fit(context, accelerator, model, inputs, processes)
    check_trained(model, trained.optimizer)
    return publish(context, model, trained, processes)
