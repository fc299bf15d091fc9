"""Merge a LoRA adapter into its base: the delta in float32, one rounding, and a proof of the result."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.tokenizer_files import TOKENIZER_FILES

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_SHARD_SIZE = "5GB"

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference of logits (L2) between adapter and merged weights, by the weights' data type."""
_PROBE_SHAPE = (2, 24)
_WRITTEN_BY_THE_MODEL = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    :param merged_modules: modules whose weights changed.
    :param logits_difference: relative L2 difference between the adapter's logits and those of the saved model.
    :param logits_moved: the same between base and saved model.
    """

    merged_modules: int
    logits_difference: float
    logits_moved: float


def merge_adapter(
    base_dir: Path, adapter_dir: Path, output_dir: Path, *, dtype: str, trust_remote_code: bool = False
) -> MergeReport:
    """Merge an adapter and save the whole model, ready to be served from its folder alone.

    peft computes the delta in float32 and rounds once; `safe_merge` would round twice.

    :param dtype: data type of the result; `auto` is the base's own.
    :raises AirsmithError: `verification_failed` for tensors that are not used, not finite or change nothing, and for a
        result that does not compute what base and adapter compute.
    """
    _refuse_bad_tensors(adapter_dir / ADAPTER_WEIGHTS)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype, trust_remote_code=trust_remote_code).eval()
    base_logits = _probe(base)
    model = _load_adapter(base, adapter_dir)
    merged_modules = sum(isinstance(module, BaseTunerLayer) for module in model.modules())
    adapter_logits = _probe(model)
    merged = model.merge_and_unload()
    _untie_what_differs(merged)
    merged.save_pretrained(output_dir, max_shard_size=MAX_SHARD_SIZE)
    _copy_tokenizer(base_dir, output_dir)
    del base, model, merged
    saved = AutoModelForCausalLM.from_pretrained(output_dir, dtype="auto", trust_remote_code=trust_remote_code).eval()
    report = MergeReport(
        merged_modules=merged_modules,
        logits_difference=_distance(adapter_logits, _probe(saved)),
        logits_moved=_distance(base_logits, adapter_logits),
    )
    _verify(report, saved.dtype)
    return report


def _refuse_bad_tensors(weights: Path) -> None:
    changes_something = False
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise _refused(f"Adapter tensor {name} holds NaN or Inf", "Train again with a lower learning rate.")
            changes_something |= "lora_A" not in name and bool(tensor.any())
    if not changes_something:
        raise _refused("Every LoRA B matrix of the adapter is zero: it changes nothing", "Check that training ran.")


def _load_adapter(base: PreTrainedModel, adapter_dir: Path) -> PeftModel:
    """Attach an adapter so that every one of its tensors finds its place; peft itself only warns."""
    model = PeftModel(base, PeftConfig.from_pretrained(adapter_dir))
    loaded = model.load_adapter(str(adapter_dir), "default")
    if loaded.unexpected_keys:
        raise _refused(
            f"Adapter tensor {loaded.unexpected_keys[0]} fits nowhere in the base "
            f"({len(loaded.unexpected_keys)} such tensors)",
            "Use the base that the adapter was trained on.",
        )
    missing = [key for key in loaded.missing_keys if "lora_" in key or "modules_to_save" in key]
    if missing:
        raise _refused(f"The adapter lacks {missing[0]} ({len(missing)} such tensors)", "Train again.")
    return model.eval()


def _untie_what_differs(model: PreTrainedModel) -> None:
    """Where training changed one of two tied matrices, saving them as tied would lose one of them."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    if head.weight.data_ptr() != embedding.weight.data_ptr() and not torch.equal(head.weight, embedding.weight):
        model.config.tie_word_embeddings = False


def _copy_tokenizer(base_dir: Path, output_dir: Path) -> None:
    for path in base_dir.iterdir():
        if (path.name in TOKENIZER_FILES and path.name not in _WRITTEN_BY_THE_MODEL) or path.suffix == ".py":
            shutil.copyfile(path, output_dir / path.name)


@torch.inference_mode()
def _probe(model: torch.nn.Module) -> torch.Tensor:
    """Logits for fixed token ids."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    tokens = torch.randint(0, vocabulary, _PROBE_SHAPE, generator=generator)
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits.float()


def _distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _verify(report: MergeReport, dtype: torch.dtype) -> None:
    if report.merged_modules == 0:
        raise _refused("The adapter touched no module of the base", "Check method.target_modules.")
    if report.logits_moved == 0:
        raise _refused("The tuned model computes exactly what its base computes", "Check that training ran.")
    if not report.logits_difference <= _TOLERANCE[dtype]:
        raise _refused(
            f"The merged model's logits differ from those of base and adapter by {report.logits_difference:.2e} "
            f"(allowed in {str(dtype).removeprefix('torch.')}: {_TOLERANCE[dtype]:.0e})",
            "Set model.dtype to 'float32', or report the model's family.",
        )


def _refused(what: str, hint: str) -> AirsmithError:
    return AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{what}.", hint)
