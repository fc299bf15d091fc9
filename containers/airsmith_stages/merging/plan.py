"""Plan a merge from the files' headers: all tensors to write, and the edits of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.merging.adapter import Adapter, verification_failed
from airsmith_stages.merging.changes import Change
from airsmith_stages.merging.edits import Edit, Target, edits_of
from airsmith_stages.merging.elements import DTYPE_NAMES, FLOATING
from airsmith_stages.merging.placement import placements_of
from airsmith_stages.merging.tying import KEY as TIED
from airsmith_stages.merging.tying import Tying, find_tying
from airsmith_stages.weights.header import Tensor
from airsmith_stages.weights.model import Weights

_CONV1D_MODELS = ("gpt2", "openai-gpt", "decision_transformer", "imagegpt")
"""Model types with `Conv1D` layers, whose weights are in × out."""


@dataclass(frozen=True)
class PlacedEdit:
    """An edit and the tensor that it applies to."""

    edit: Edit
    target: Target

    def load(self) -> Change:
        """Read the values."""
        return self.edit.load(self.target)


@dataclass(frozen=True)
class MergedTensor:
    """A tensor to write.

    :param base: the base's tensor that it is made from.
    :param edits: edits in the order to apply; empty if the tensor is unchanged.
    :param is_copy: whether it is written in addition to the base's tensor: a head that is no longer tied.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    base: Tensor
    edits: tuple[PlacedEdit, ...] = ()
    is_copy: bool = False

    @property
    def is_unchanged(self) -> bool:
        """Whether its bytes are those of the base."""
        return not self.edits and self.dtype == self.base.dtype


@dataclass(frozen=True)
class MergePlan:
    """Everything that a merge writes.

    :param tensors: in the order of the base's files and bytes.
    :param config: config of the merged model.
    """

    tensors: tuple[MergedTensor, ...]
    config: Mapping[str, Any]


def plan_merge(base: Weights, config: Mapping[str, Any], adapter: Adapter, dtype: str = "auto") -> MergePlan:
    """Match each tensor of the adapter to tensors of the base.

    :param config: the base's `config.json`.
    :param dtype: torch's name of the result's type; `auto` keeps each tensor's type.
    :raises AirsmithError: `verification_failed`, naming a tensor that matches no parameter or matches twice.
    """
    _refuse_quantized(config)
    tensors = base.tensors()
    edits = edits_of(adapter, lambda parameter: bool(placements_of(parameter, tensors)))
    tying = find_tying(edits, tensors, config, adapter)
    head_edits = edits.pop(tying.head, []) if tying and tying.is_untied else []
    placed = _placed(tying.shared(edits, tensors) if tying else edits, tensors, config, dtype)
    old_head = (
        {placement.tensor for placement in placements_of(tying.head, tensors)} if tying and tying.is_untied else set()
    )
    merged: list[MergedTensor] = []
    for tensor in tensors.values():
        if tensor.name not in old_head:
            merged.append(_merged(tensor.name, tensor, placed.get(tensor.name, []), dtype))
        if tying and tying.is_untied and tensor.name == tying.embedding:
            target = Target(tensor.shape, _wanted(tensor, dtype), is_transposed=False)
            placed_head = [PlacedEdit(edit, target) for edit in head_edits]
            merged.append(_merged(tying.head, tensor, placed_head, dtype, is_copy=True))
    return MergePlan(tuple(merged), _changed_config(config, merged, tying, dtype))


def _placed(
    edits: Mapping[str, list[Edit]], tensors: Mapping[str, Tensor], config: Mapping[str, Any], dtype: str
) -> dict[str, list[PlacedEdit]]:
    """The edits, by the tensor of the base that they change."""
    placed: dict[str, list[PlacedEdit]] = {}
    unmatched = [
        edit.names[0] for parameter, made in edits.items() if not placements_of(parameter, tensors) for edit in made
    ]
    if unmatched:
        raise verification_failed(
            f"Adapter tensor {unmatched[0]} matches no parameter of the base ({len(unmatched)} such edits)",
            "Use the base that the adapter was trained on.",
        )
    owner: dict[str, str] = {}
    for parameter, made in edits.items():
        for placement in placements_of(parameter, tensors):
            other = owner.setdefault(placement.tensor, parameter)
            if other != parameter:
                raise verification_failed(
                    f"The adapter changes {placement.tensor} twice, as {other} and as {parameter}", "Train again."
                )
            tensor = tensors[placement.tensor]
            if tensor.dtype not in FLOATING:
                raise verification_failed(
                    f"The base's {tensor.name} has dtype {tensor.dtype}, which a merge cannot change",
                    "Use a base that is not quantized.",
                )
            target = Target(
                tensor.shape,
                _wanted(tensor, dtype),
                placement.expert,
                placement.first_row,
                _is_transposed(parameter, config),
            )
            placed[placement.tensor] = [PlacedEdit(edit, target) for edit in made]
    return placed


def _is_transposed(parameter: str, config: Mapping[str, Any]) -> bool | None:
    is_layer = parameter.rpartition(".")[0].rpartition(".")[2].startswith("c_")
    return True if is_layer and config.get("model_type") in _CONV1D_MODELS else None


def _merged(name: str, tensor: Tensor, edits: list[PlacedEdit], dtype: str, *, is_copy: bool = False) -> MergedTensor:
    shape = next((placed.edit.replaced for placed in edits if placed.edit.replaced), tensor.shape)
    return MergedTensor(name, _wanted(tensor, dtype), shape, tensor, tuple(edits), is_copy)


def _wanted(tensor: Tensor, dtype: str) -> str:
    return DTYPE_NAMES.get(dtype, tensor.dtype) if tensor.dtype in FLOATING else tensor.dtype


def _changed_config(
    config: Mapping[str, Any], merged: list[MergedTensor], tying: Tying | None, dtype: str
) -> dict[str, Any]:
    """The base's config with the changes of the merge, also in the text model's part."""
    changes: dict[str, Any] = {}
    if dtype in DTYPE_NAMES:
        changes["dtype"] = dtype
    if tying:
        of_both = [tensor for tensor in merged if tensor.name in (tying.embedding, tying.head)]
        if tying.is_untied or (not tying.is_tied and any(tensor.edits for tensor in of_both)):
            changes[TIED] = False
        rows = {tensor.shape[0] for tensor in of_both}
        if len(rows) > 1:
            raise verification_failed(
                f"Embedding and head would have different numbers of tokens, {min(rows)} and {max(rows)}",
                "Train both, or neither.",
            )
        if rows != {of_both[0].base.shape[0]}:
            changes["vocab_size"] = rows.pop()
    changed = {**config, **changes}
    if "dtype" in changes:
        changed.pop("torch_dtype", None)
    for part in ("text_config", "llm_config"):
        if isinstance(config.get(part), Mapping):
            changed[part] = {**config[part], **changes}
    return changed


def _refuse_quantized(config: Mapping[str, Any]) -> None:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        if part.get("quantization_config"):
            method = part["quantization_config"].get("quant_method", "unknown")
            raise AirsmithError(
                ErrorKind.VERIFICATION_FAILED,
                f"The base is quantized ({method}), so rounding would lose the adapter's changes.",
                "Set model.id to the original model that is not quantized, and merge into that.",
            )
