"""Assign each tensor of an adapter to an edit of one parameter of the base."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from airsmith_stages.merging.adapter import Adapter, verification_failed
from airsmith_stages.merging.changes import Added, Change, Dora, ExpertsLowRank, LowRank, Replaced, TokenRows

_PREFIX = "base_model.model."
_BASE_LAYER = ".base_layer"
_TOKENS = ".token_adapter.trainable_tokens_delta"
_LORA = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?P<kind>\.weight|\.bias)?$"
)
_LAST_OF_EXPERTS = ("down_proj",)
_OWN_BASE = "Use the base that the adapter was trained on."
_AGAIN = "Train again."


@dataclass(frozen=True)
class Target:
    """A tensor in the base's files that holds a parameter or some rows of it.

    :param dtype: type of the merged tensor.
    :param expert: index of its expert if the files have a tensor per expert and memory has one for all.
    :param first_row: its first row within the expert.
    :param is_transposed: whether it is in × out, as in GPT-2's Conv1D; None if only its shape determines that.
    """

    shape: tuple[int, ...]
    dtype: str
    expert: int | None = None
    first_row: int = 0
    is_transposed: bool | None = None


@dataclass(frozen=True)
class Edit:
    """A change of a parameter whose values are not loaded yet.

    :param names: tensors of the adapter that define it.
    :param load: checks the shapes and reads the values.
    :param replaced: new shape of the parameter if it is fully replaced.
    """

    names: tuple[str, ...]
    load: Callable[[Target], Change]
    replaced: tuple[int, ...] | None = None
    is_for_tokens: bool = False


def edits_of(adapter: Adapter, is_in_base: Callable[[str], bool]) -> dict[str, list[Edit]]:
    """All edits by the parameter's name in memory, in the order in which to apply them.

    :param is_in_base: whether the base has a parameter of a name.
    :raises AirsmithError: `verification_failed` for a tensor that is not part of LoRA or lacks its counterpart.
    """
    edits: dict[str, list[Edit]] = {}
    modules: dict[str, dict[str, str]] = {}
    for name in sorted(adapter.tensors):
        if not name.startswith(_PREFIX):
            raise verification_failed(
                f"Adapter tensor {name} matches no parameter of the base: its name is not one of peft's LoRA", _OWN_BASE
            )
        path = name.removeprefix(_PREFIX)
        lora = _LORA.match(path)
        if lora:
            part = lora["part"] + (".bias" if lora["kind"] == ".bias" else "")
            modules.setdefault(lora["module"], {})[part] = name
        elif path.endswith(_TOKENS):
            module = path.removesuffix(_TOKENS)
            edits.setdefault(f"{module}.weight", []).append(_token_rows(adapter, module, name))
        else:
            parameter = path.replace(f"{_BASE_LAYER}.", ".")
            edits.setdefault(parameter, []).insert(0, _replacement(adapter, name))
    for parameter, edit in _of_modules(adapter, modules, is_in_base):
        edits.setdefault(parameter, []).append(edit)
    return edits


def _of_modules(
    adapter: Adapter, modules: Mapping[str, Mapping[str, str]], is_in_base: Callable[[str], bool]
) -> list[tuple[str, Edit]]:
    found: list[tuple[str, Edit]] = []
    wrapped: dict[str, list[str]] = {}
    for path in sorted(modules, key=len, reverse=True):  # `m.base_layer` is inside `m`
        wrapped.setdefault(path.replace(_BASE_LAYER, ""), []).append(path)
    for module, paths in wrapped.items():
        parameters = [name for name in _targeted_parameters(adapter, module) if is_in_base(f"{module}.{name}")]
        if parameters and len(parameters) != len(paths):
            raise verification_failed(
                f"The adapter lacks LoRA matrices of {module}, which has {len(parameters)} target parameters", _AGAIN
            )
        for number, path in enumerate(paths):
            parts = modules[path]
            if parameters:
                found.append((f"{module}.{parameters[number]}", _experts(adapter, module, parameters[number], parts)))
                continue
            is_embedding = any("embedding" in part for part in parts)
            found.append((f"{module}.weight", _product(adapter, module, parts, is_embedding)))
            if "lora_B.bias" in parts:
                found.append((f"{module}.bias", _bias(adapter, module, parts)))
    return found


def _targeted_parameters(adapter: Adapter, module: str) -> list[str]:
    """Direct parameters of a module that the config targets, in the order in which peft wraps them."""
    split = [target.rpartition(".") for target in adapter.config.get("target_parameters") or ()]
    names = [name for parent, _, name in split if not parent or f".{module}".endswith(f".{parent}")]
    return sorted(dict.fromkeys(names), key=lambda name: name in _LAST_OF_EXPERTS)


def _product(adapter: Adapter, module: str, parts: Mapping[str, str], is_embedding: bool) -> Edit:
    a, b = _pair(module, parts, "lora_embedding_" if is_embedding else "lora_")
    magnitude = parts.get("lora_magnitude_vector")
    rank, inner = adapter.shape(a)
    out = adapter.shape(b)[0]
    _check(b, adapter.shape(b), (out, rank))
    scaling = adapter.scaling(module, rank)

    def load(target: Target) -> Change:
        is_transposed = is_embedding or _is_transposed(target, out, inner, bool(adapter.config.get("fan_in_fan_out")))
        _check(a, target.shape, (inner, out) if is_transposed else (out, inner))
        product = LowRank(adapter.floats(a), adapter.floats(b), scaling, is_transposed, rounds_first=is_embedding)
        return product if magnitude is None else Dora(product, adapter.floats(magnitude).reshape(-1))

    return Edit((a, b) if magnitude is None else (a, b, magnitude), load)


def _is_transposed(target: Target, out: int, inner: int, default: bool) -> bool:
    """Whether a layer's weight is in × out. The shape takes priority: the config's flag is that of its last layer."""
    if target.is_transposed is not None:
        return target.is_transposed
    return default if inner == out else target.shape == (inner, out)


def _experts(adapter: Adapter, module: str, parameter: str, parts: Mapping[str, str]) -> Edit:
    """A product per expert in the layout of peft's `ParamWrapper`: A is ordered by expert, B has the expert last."""
    a, b = _pair(module, parts, "lora_")
    path = f"{module}.{parameter}"
    rows, inner = adapter.shape(a)
    out = adapter.shape(b)[0]
    rank = int(adapter.pattern("rank_pattern", path, "r"))
    _check(b, adapter.shape(b), (out, rows))
    if rows % rank:
        raise verification_failed(
            f"Adapter tensor {a} has {rows} rows, which is not a multiple of its rank {rank}", _AGAIN
        )
    experts = rows // rank
    scaling = adapter.scaling(path, rank)

    def load(target: Target) -> Change:
        if target.expert is None and len(target.shape) == 2:
            _check(a, target.shape, (out, inner))
            return LowRank(adapter.floats(a), adapter.floats(b), scaling, rounds_first=True)
        is_transposed = target.expert is None and target.shape == (experts, inner, out) and inner != out
        if target.expert is None:
            _check(a, target.shape, (experts, inner, out) if is_transposed else (experts, out, inner))
        elif target.expert >= experts or target.shape[1] != inner or target.first_row + target.shape[0] > out:
            _check(a, target.shape, (out, inner))
        by_expert = np.ascontiguousarray(adapter.floats(b).reshape(out, rank, experts).transpose(2, 0, 1))
        return ExpertsLowRank(
            adapter.floats(a).reshape(experts, rank, inner),
            by_expert,
            scaling,
            is_transposed,
            target.expert,
            target.first_row,
        )

    return Edit((a, b), load)


def _bias(adapter: Adapter, module: str, parts: Mapping[str, str]) -> Edit:
    name = parts["lora_B.bias"]
    scaling = adapter.scaling(module, adapter.shape(parts["lora_A"])[0])

    def load(target: Target) -> Change:
        _check(name, target.shape, adapter.shape(name))
        return Added(adapter.floats(name), scaling)

    return Edit((name,), load)


def _replacement(adapter: Adapter, name: str) -> Edit:
    def load(target: Target) -> Change:
        _check(name, target.shape[1:], adapter.shape(name)[1:])
        return Replaced(lambda first, count: adapter.rows(name, first, count))

    return Edit((name,), load, replaced=adapter.shape(name))


def _token_rows(adapter: Adapter, module: str, name: str) -> Edit:
    indices = adapter.config.get("trainable_token_indices")
    if isinstance(indices, Mapping):
        indices = next((rows for key, rows in indices.items() if f".{module}".endswith(f".{key}")), None)
    count = adapter.shape(name)[0]
    if not isinstance(indices, list) or len(indices) != count or len(set(indices)) != count:
        raise verification_failed(
            f"Adapter tensor {name} has {count} rows, but its config lists a different number of tokens", _AGAIN
        )
    tokens = np.array(indices, np.int64)

    def load(target: Target) -> Change:
        _check(name, target.shape[1:], adapter.shape(name)[1:])
        if count and not 0 <= int(tokens.min()) <= int(tokens.max()) < target.shape[0]:
            raise verification_failed(f"Adapter tensor {name} changes tokens that do not exist in the base", _OWN_BASE)
        return TokenRows(tokens, adapter.floats(name))

    return Edit((name,), load, is_for_tokens=True)


def _pair(module: str, parts: Mapping[str, str], kind: str) -> tuple[str, str]:
    for part in (f"{kind}A", f"{kind}B"):
        if part not in parts:
            raise verification_failed(f"The adapter lacks {module}.{part}", _AGAIN)
    return parts[f"{kind}A"], parts[f"{kind}B"]


def _check(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise verification_failed(
            f"Adapter tensor {name} is for shape {list(expected)}, but the base's parameter has shape {list(found)}",
            _OWN_BASE,
        )
