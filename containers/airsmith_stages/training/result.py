"""The output of a training: verified weights, as an adapter or a whole model, with their history."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from airsmith.contracts.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from airsmith.contracts.cache import Output
from airsmith.contracts.stages import CONFIG, END_TOKENS, SHARDS, TOKENIZER, has_sharded_output
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.model_files import add_all_but_weights
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.curve import write_history
from airsmith_stages.training.distributed import DistributedContext
from airsmith_stages.training.distributed_artifact import add_from_all_ranks, files_under
from airsmith_stages.training.fit import FitResult
from airsmith_stages.training.history import last_value, lowest_eval_loss
from airsmith_stages.training.model import TrainableModel, fingerprints, local_part, trainable_parameters

log = logging.getLogger("airsmith")

SHARD_SIZE = "5GB"


def check_trained(model: TrainableModel, optimizer: torch.optim.Optimizer) -> None:
    """Check that all weights are finite and that training has changed them.

    A parameter without a gradient in any step (an expert that no token was routed to, a tower that the data does not
    use) is only logged if other parameters have changed.

    :raises AirsmithError: `non_finite_loss` or `verification_failed`, with the parameter's name.
    """
    parameters = dict(trainable_parameters(model.module))
    for name, parameter in parameters.items():
        if not torch.isfinite(local_part(parameter)).all():
            raise AirsmithError(
                ErrorKind.NON_FINITE_LOSS,
                f"After training, {name} contains values that are not finite.",
                "Lower training.learning_rate and start a new run.",
            )
    trained = fingerprints(model.module)
    unchanged = [name for name, fingerprint in model.untrained.items() if trained[name] == fingerprint]
    stuck = [name for name in unchanged if _had_gradient(optimizer, parameters[name])]
    if stuck or len(unchanged) == len(parameters):
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"Training did not change {len(unchanged)} of {len(parameters)} trained tensors, such as "
            f"{(stuck or unchanged)[0]}.",
            "Raise training.max_steps or training.learning_rate, or lower training.warmup_ratio: the learning rate of "
            "the first warm-up step is 0.",
        )
    if unchanged:
        log.warning(
            "%d of %d trained tensors never received a gradient: %s", len(unchanged), len(parameters), unchanged[:10]
        )


def publish(
    context: StageContext, model: TrainableModel, trained: FitResult, distributed: DistributedContext
) -> Output:
    """Publish the result and its history; each rank adds its files."""
    recipe, pointers = context.spec.recipe, context.pointers
    folder = context.scratch / "output"
    folder.mkdir()
    end_tokens = pointers["tokenize"].properties[END_TOKENS]
    properties = {END_TOKENS: end_tokens}
    is_adapter = isinstance(model.module, PeftModel)
    if not is_adapter:
        base = pointers["mirror_model"].properties
        properties |= {name: base[name] for name in (TOKENIZER, CONFIG) if name in base}
    if has_sharded_output(recipe):
        write_shards(model, folder, distributed)
        properties[SHARDS] = str(distributed.world_size)
    elif distributed.is_main_process:
        (write_adapter if is_adapter else write_model)(model, folder)
    if distributed.is_main_process:
        write_history(trained.history, recipe.name, folder)
    with context.write_output() as output:
        add_from_all_ranks(output, files_under(folder), distributed)

        def complete() -> Output:
            if not is_adapter:
                base = context.input("mirror_model")
                add_all_but_weights(base, output, recipe.dataset.chat_template, json.loads(end_tokens))
            return Output.of_artifact(output.publish(metrics=_metrics(trained), properties=properties))

        return distributed.on_main_process(complete)


def write_adapter(model: TrainableModel, folder: Path) -> None:
    """Write a LoRA adapter in peft's format. Its config names the recipe's model, not the local folder."""
    module = model.module
    assert isinstance(module, PeftModel)
    state = get_peft_model_state_dict(module, save_embedding_layers=False)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = module.peft_config[module.active_adapter].to_dict() | {"inference_mode": True}
    # Sets are not ordered, and processes must write identical files.
    ordered = {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in config.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(ordered, indent=2, sort_keys=True, default=str) + "\n")


def write_model(model: TrainableModel, folder: Path) -> None:
    """Write a whole model's weights in the base's data types."""
    for name, parameter in model.base.named_parameters():
        parameter.data = parameter.data.to(model.base_dtypes[name])
    weights = folder.with_name("weights")
    model.base.save_pretrained(weights, max_shard_size=SHARD_SIZE)
    for path in weights.iterdir():
        if path.name.endswith((".safetensors", ".safetensors.index.json")):
            path.replace(folder / path.name)


def write_shards(model: TrainableModel, folder: Path, distributed: DistributedContext) -> None:
    """Write this rank's part of a model, in the base's data types, as one file of `HuggingFaceStorageWriter`."""
    tied = model.base.all_tied_weights_keys
    tensors = {
        name: tensor.to(model.base_dtypes.get(name, tensor.dtype))
        for name, tensor in get_model_state_dict(model.base).items()
        if name not in tied
    }
    dcp.save(
        tensors,
        storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        process_group=distributed.control_group,
    )


def _metrics(trained: FitResult) -> dict[str, float | int | None]:
    """Metrics of the manifest: `train_loss` is the mean since the second-last row, `eval_loss` the lowest."""
    return {
        "train_loss": last_value(trained.history, "loss"),
        "eval_loss": lowest_eval_loss(trained.history),
        "last_eval_loss": last_value(trained.history, "eval_loss"),
        "steps": trained.steps,
        "tokens": trained.tokens,
        "tokens_per_second": round(trained.tokens / trained.seconds, 1),
        "seconds": round(trained.seconds, 1),
    }


def _had_gradient(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> bool:
    second_moment = optimizer.state[parameter].get("exp_avg_sq") if parameter in optimizer.state else None
    return second_moment is not None and bool(second_moment.any())
