"""Stage `train` on devices that torch supports natively, such as CPUs and GPUs."""

from __future__ import annotations

from airsmith.contracts.cache import Output
from airsmith.contracts.stages import has_sharded_output
from airsmith_stages.devices import Device
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.fit import fit
from airsmith_stages.training.inputs import check_compatible, read_inputs
from airsmith_stages.training.model import load_model
from airsmith_stages.training.result import check_trained, publish
from airsmith_stages.training.sharding import shard


def train(context: StageContext, device: Device) -> Output:
    """Train to the last step, from the newest checkpoint if one exists, and publish the result."""
    recipe = context.spec.recipe
    distributed = DistributedContext.from_environment(device.process_group_backend)
    model = load_model(context.fetch("mirror_model"), recipe, device)
    with_validation = recipe.training.eval_steps is not None
    inputs = read_inputs(context.input("tokenize"), context.scratch / "tokens", with_validation=with_validation)
    check_compatible(inputs, model.base)
    if has_sharded_output(recipe):
        model = shard(model, recipe.training.precision)
    trained = fit(context, device, model, inputs, distributed)
    check_trained(model, trained.optimizer)
    return publish(context, model, trained, distributed)
