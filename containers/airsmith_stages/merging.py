"""Merge a LoRA adapter into its base: the delta in float32, one rounding, and a proof of the result."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from airsmith.contracts.errors import AirsmithError, ErrorKind

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference of logits (L2) between adapter and merged weights, by the weights' data type."""
_PROBE_SHAPE = (2, 24)
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    :param merged_tensors: tensors of the base that the adapter changed.
    :param logits_moved: relative L2 difference between the base's logits and the adapter's.
    :param logits_difference: the same between the adapter's and those of the saved model.
    """

    merged_tensors: int
    logits_moved: float
    logits_difference: float


def merge_adapter(
    base_dir: Path,
    adapter_dir: Path,
    output_dir: Path,
    *,
    dtype: str,
    max_shard_size: str = "5GB",
    trust_remote_code: bool = False,
) -> MergeReport:
    """Merge an adapter into its base and save weights and config, verified as they lie on the disk.

    peft computes the delta in float32 and rounds once; `safe_merge` would round twice.

    :param dtype: data type of the result; `auto` is the base's own.
    :raises AirsmithError: `verification_failed` for adapter tensors that are not used, not finite or change nothing,
        and for a result that does not compute what base and adapter compute.
    """
    names = _checked_tensor_names(adapter_dir / ADAPTER_WEIGHTS)
    base = _load(base_dir, dtype, trust_remote_code)
    _untie_what_is_tuned(base, names)
    before = _fingerprints(base)
    base_logits = _probe(base)
    adapter = _attach(base, adapter_dir)
    targets = _targeted_parameters(adapter, before)
    adapter_logits = _probe(adapter)
    merged = adapter.merge_and_unload()
    changed = _check_parameters(merged, before, targets)
    merged.save_pretrained(output_dir, max_shard_size=max_shard_size)
    del base, adapter, merged
    saved_logits = _probe(_load(output_dir, "auto", trust_remote_code))
    report = MergeReport(
        merged_tensors=len(changed),
        logits_moved=_distance(base_logits, adapter_logits),
        logits_difference=_distance(adapter_logits, saved_logits),
    )
    _check_logits(report, _TOLERANCE[saved_logits.dtype])
    return report


def _load(folder: Path, dtype: str, trust_remote_code: bool) -> PreTrainedModel:
    """Load a model, every parameter of it from the folder's files."""
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        raise _refused(
            f"The weights lack {sorted(found['missing_keys'])[0]} ({len(found['missing_keys'])} such tensors)",
            "Check that the model's files belong together.",
        )
    return model.eval()


def _checked_tensor_names(weights: Path) -> list[str]:
    """Names of an adapter's tensors, once they are known to be finite and to change anything at all."""
    changes_something = False
    with safe_open(weights, framework="pt") as file:
        names = list(file.keys())
        for name in names:
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise _refused(f"Adapter tensor {name} holds NaN or Inf", "Train again with a lower learning rate.")
            changes_something |= "lora_A" not in name and bool(tensor.any())
    if not changes_something:
        raise _refused("Every LoRA B matrix of the adapter is zero: it changes nothing", "Check that training ran.")
    return names


def _untie_what_is_tuned(base: PreTrainedModel, adapter_names: Collection[str]) -> None:
    """Give the output head a matrix of its own where only it, or only the input embedding, was tuned.

    While training, peft adds to the one and leaves the other; merged into the matrix that they share, it would change
    both.
    """
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    tied = [name for name, module in base.named_modules() if module is head or module is embedding]
    if any(name.startswith(f"{_PEFT_PREFIX}{module}.") for name in adapter_names for module in tied):
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False
        base.config.get_text_config().tie_word_embeddings = False


def _attach(base: PreTrainedModel, adapter_dir: Path) -> PeftModel:
    """Attach an adapter so that every one of its tensors finds its place; peft itself is silent about the others."""
    model = PeftModel(base, PeftConfig.from_pretrained(adapter_dir))
    loaded = model.load_adapter(str(adapter_dir), "default", torch_device=str(base.device))
    if loaded.unexpected_keys:
        raise _refused(
            f"Adapter tensor {loaded.unexpected_keys[0]} fits nowhere in the base "
            f"({len(loaded.unexpected_keys)} such tensors)",
            "Use the base that the adapter was trained on.",
        )
    if loaded.missing_keys:
        raise _refused(
            f"The adapter lacks {loaded.missing_keys[0]} ({len(loaded.missing_keys)} such tensors)", "Train again."
        )
    return model.eval()


def _targeted_parameters(adapter: PeftModel, parameters: Collection[str]) -> set[str]:
    """Names in the base of what the adapter is there to change."""
    targets: set[str] = set()
    for module, kind in adapter.get_base_model().named_modules():
        if isinstance(kind, BaseTunerLayer):
            targets |= {f"{module}.weight", f"{module}.bias"} & set(parameters)
        elif isinstance(kind, AuxiliaryTrainingWrapper):
            targets |= {name for name in parameters if name.startswith(f"{module}.")}
    return targets


def _fingerprints(model: nn.Module) -> dict[str, bytes]:
    """A digest of each parameter."""
    return {
        name: hashlib.sha256(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()).digest()
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }


def _check_parameters(merged: nn.Module, before: Mapping[str, bytes], targets: Collection[str]) -> list[str]:
    """Compare all parameters with those of the base.

    :returns: names of those that the merge has changed.
    """
    for name, parameter in merged.named_parameters():
        if not torch.isfinite(parameter).all():
            raise _refused(
                f"The merged {name} holds NaN or Inf in {_short(parameter.dtype)}", "Set model.dtype to 'float32'."
            )
    after = _fingerprints(merged)
    if after.keys() != before.keys():
        raise _refused(f"Merging has added or lost {sorted(after.keys() ^ before.keys())[0]}", "Report the model.")
    changed = sorted(name for name in after if after[name] != before[name])
    if not changed:
        raise _refused(
            "Merging has changed no tensor of the base", "Check that training ran and method.target_modules."
        )
    strays = sorted(set(changed) - set(targets))
    if strays:
        raise _refused(f"Merging has changed {strays[0]}, which the adapter does not target", "Report the model.")
    return changed


@torch.inference_mode()
def _probe(model: nn.Module) -> torch.Tensor:
    """Logits for fixed token ids."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    tokens = torch.randint(0, vocabulary, _PROBE_SHAPE, generator=generator)
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def _distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def _check_logits(report: MergeReport, tolerance: float) -> None:
    if report.logits_moved == 0:
        raise _refused("The tuned model computes exactly what its base computes", "Check that training ran.")
    if not report.logits_difference <= tolerance:
        raise _refused(
            f"The merged model's logits differ from those of base and adapter by {report.logits_difference:.2e} "
            f"(allowed: {tolerance:.0e})",
            "Set model.dtype to 'float32', or report the model.",
        )
    if not report.logits_difference < report.logits_moved:
        raise _refused(
            f"Rounding changes the logits by {report.logits_difference:.2e}, more than the adapter itself "
            f"({report.logits_moved:.2e})",
            "Train longer, or set model.dtype to 'float32'.",
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refused(what: str, hint: str) -> AirsmithError:
    return AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{what}.", hint)
