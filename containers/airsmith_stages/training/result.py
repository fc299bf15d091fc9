"""What training leaves: verified weights, written as an adapter or as a whole model, with their history."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from airsmith.contracts.cache import Output
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.stages import END_TOKENS, TOKENIZER
from airsmith_stages.frame import StageContext
from airsmith_stages.training.curve import draw_loss_curve
from airsmith_stages.training.fit import Fit
from airsmith_stages.training.history import Row, last_value, lowest_eval_loss
from airsmith_stages.training.model import TrainableModel, fingerprints, local_part, trainable_parameters
from airsmith_stages.training.processes import Processes

log = logging.getLogger("airsmith")

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
HISTORY_FILE, CURVE_FILE = "metrics.jsonl", "loss.png"
SHARD_SIZE = "5GB"


def check_trained(model: TrainableModel, optimizer: torch.optim.Optimizer) -> None:
    """Refuse weights that are broken, or that training has left as they were.

    A parameter that no gradient ever reached (an expert that no token was routed to, a tower that the data does not
    use) is named in the log only, as long as others have moved.

    :raises AirsmithError: `non_finite_loss` or `verification_failed`, naming the parameter.
    """
    parameters = dict(trainable_parameters(model.module))
    for name, parameter in parameters.items():
        if not torch.isfinite(local_part(parameter)).all():
            raise AirsmithError(
                ErrorKind.NON_FINITE_LOSS,
                f"After training, {name} holds values that are not finite.",
                "Lower training.learning_rate, and start a new run.",
            )
    trained = fingerprints(model.module)
    unmoved = [name for name, fingerprint in model.untrained.items() if trained[name] == fingerprint]
    stuck = [name for name in unmoved if _had_gradient(optimizer, parameters[name])]
    if stuck or len(unmoved) == len(parameters):
        raise AirsmithError(
            ErrorKind.VERIFICATION_FAILED,
            f"Training has left {len(unmoved)} of {len(parameters)} trained tensors as they were, such as "
            f"{(stuck or unmoved)[0]}.",
            "Raise training.max_steps or training.learning_rate, or lower training.warmup_ratio: in the first step of "
            "a warm-up the learning rate is 0.",
        )
    if unmoved:
        log.warning(
            "No gradient ever reached %d of %d trained tensors: %s", len(unmoved), len(parameters), unmoved[:10]
        )


def publish(context: StageContext, model: TrainableModel, trained: Fit, base: Path, processes: Processes) -> Output:
    """Publish what was trained, with its history. Who is not the leader waits for it.

    :param base: the base's local folder.
    """
    return processes.by_leader(lambda: _publish(context, model, trained, base))


def _publish(context: StageContext, model: TrainableModel, trained: Fit, base: Path) -> Output:
    recipe = context.spec.recipe
    folder = context.scratch / "output"
    folder.mkdir()
    properties = {END_TOKENS: context.pointers["tokenize"].properties[END_TOKENS]}
    if isinstance(model.module, PeftModel):
        write_adapter(model.module, folder)
    else:
        write_model(model.base, model.base_dtypes, base, recipe.dataset.chat_template, folder)
        properties[TOKENIZER] = context.pointers["mirror_model"].properties[TOKENIZER]
    write_history(trained.history, recipe.name, folder)
    with context.write_output() as output:
        output.add_folder(folder)
        return Output.of_artifact(output.publish(metrics=_metrics(trained), properties=properties))


def write_adapter(model: PeftModel, folder: Path) -> None:
    """Write a LoRA adapter in peft's format. Its config names the recipe's model, not where it lay on this disk."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config[model.active_adapter].to_dict() | {"inference_mode": True}
    # Sets have no order: without one, two processes would write two files.
    ordered = {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in config.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(ordered, indent=2, sort_keys=True, default=str) + "\n")


def write_model(
    model: PreTrainedModel, dtypes: Mapping[str, torch.dtype], base: Path, chat_template: str | None, folder: Path
) -> None:
    """Write a whole model: new weights in the base's data types, and all else as the base has it.

    :param dtypes: data type of each parameter in the base.
    :param base: the base's local folder.
    :param chat_template: the recipe's, which replaces the base's.
    """
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    for path in sorted(base.rglob("*")):
        if path.is_file() and not _is_weights(path):
            (folder / path.relative_to(base)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.relative_to(base))
    weights = folder.with_name("weights")
    model.save_pretrained(weights, max_shard_size=SHARD_SIZE)
    for path in weights.iterdir():
        if _is_weights(path):
            path.replace(folder / path.name)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


def write_history(history: Sequence[Row], title: str, folder: Path) -> None:
    """Write the history as lines of JSON and as a picture."""
    (folder / HISTORY_FILE).write_text("".join(json.dumps(row) + "\n" for row in history))
    draw_loss_curve(history, title, folder / CURVE_FILE)


def _metrics(trained: Fit) -> dict[str, float | int | None]:
    """For the manifest: `train_loss` is the mean since the last row but one, `eval_loss` the lowest."""
    return {
        "train_loss": last_value(trained.history, "loss"),
        "eval_loss": lowest_eval_loss(trained.history),
        "steps": trained.steps,
        "tokens": trained.tokens,
        "tokens_per_second": round(trained.tokens / trained.seconds, 1),
        "seconds": round(trained.seconds, 1),
    }


def _had_gradient(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> bool:
    second_moment = optimizer.state[parameter].get("exp_avg_sq") if parameter in optimizer.state else None
    return second_moment is not None and bool(second_moment.any())


def _is_weights(path: Path) -> bool:
    return path.name.endswith((".safetensors", ".safetensors.index.json"))
