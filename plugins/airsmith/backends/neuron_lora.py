"""LoRA settings that optimum-neuron 0.4.5 would silently ignore.

It fuses layers that have the same input: gate and up always, q, k and v if key and value heads are replicated. Fused
layers share a rank, a scale and their first matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe import Recipe
from airsmith.recipe.training import Method

Rule = Callable[[Method], None]

LINEARS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
"""Linear layers of a block, with their parent modules: the layers that `all-linear` selects."""
OTHERS = ("lm_head", "embed_tokens")
GATE_UP, QKV = ("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj")

_PROBED_LAYERS = (0, 7)
"""Two blocks, to detect targets that match a layer in only one of them."""


def target_names(method: Method) -> tuple[str, ...]:
    """The recipe's targets as layer names; each name selects that layer of every block.

    :raises AirsmithError: `bad_recipe` if a target matches no layer, or a layer of some blocks only.
    """
    if method.name == "full":
        return method.target_modules
    named = {name for target in method.target_modules for name in _names_of(target)}
    return tuple(name for name in (*LINEARS, *OTHERS) if name in named)


def check_lora(recipe: Recipe) -> Iterable[Callable[[], None]]:
    """One check per setting that optimum-neuron may ignore."""
    method = recipe.method
    if method.name == "full":
        return []
    rules: tuple[Rule, ...] = (_no_dora, _no_whole_modules, _only_names, check_gate_and_up)
    return [partial(rule, method) for rule in rules]


def check_gate_and_up(method: Method) -> None:
    """Check that gate and up have the same settings.

    :raises AirsmithError: `bad_recipe`.
    """
    check_fused(method, GATE_UP, "optimum-neuron fuses gate and up into one layer")


def check_fused(method: Method, members: tuple[str, ...], reason: str) -> None:
    """Check that layers that are fused have the same LoRA settings.

    :raises AirsmithError: `bad_recipe`, with the missing layers.
    """
    targets = target_names(method)
    missing = [name for name in members if name not in targets]
    if 0 < len(missing) < len(members):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.target_modules has {_and(name for name in members if name in targets)} without "
            f"{_and(missing)}, but {reason}: LoRA applies to the whole layer or not at all.",
            f"Add {_and(missing)}, or remove {_and(name for name in members if name in targets)}.",
        )
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(method, field):
            lost = [name for name in members if _matched(pattern, name)]
            if lost:
                raise AirsmithError(
                    ErrorKind.BAD_RECIPE,
                    f"method.{field} has {pattern!r} for {_and(lost)}, but {reason}, which the pattern does not match: "
                    "the pattern would be ignored.",
                    f"Remove it; method.r and method.lora_alpha apply to {_and(members)}.",
                )


def _only_names(method: Method) -> None:
    target_names(method)


def _no_dora(method: Method) -> None:
    if method.use_dora:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "method.use_dora is true, but optimum-neuron does not support DoRA: it would ignore the magnitudes.",
            "Set method.use_dora to false, or train on 'cuda' or 'rocm'.",
        )


def _no_whole_modules(method: Method) -> None:
    if method.modules_to_save:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.modules_to_save has {_and(method.modules_to_save)}, but optimum-neuron saves only LoRA.",
            "Add lm_head or embed_tokens to method.target_modules instead, or set method.name to 'full'.",
        )


def _names_of(target: str) -> tuple[str, ...]:
    if target == "all-linear":
        return tuple(LINEARS)
    found = {name: [probe for probe in _probes(name) if _finds(target, probe)] for name in (*LINEARS, *OTHERS)}
    names = tuple(name for name, probes in found.items() if probes)
    if not names:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.target_modules has {target!r}, which matches no layer that supports LoRA in optimum-neuron.",
            f"Use all-linear, or some of {', '.join((*LINEARS, *OTHERS))}.",
        )
    partly = [name for name in names if len(found[name]) < len(_probes(name))]
    if partly:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.target_modules has {target!r}, which matches a layer in some blocks only, but optimum-neuron "
            "applies a target to every block.",
            f"Use {_and(partly)}, or train on 'cuda' or 'rocm'.",
        )
    return names


def _probes(name: str) -> tuple[str, ...]:
    """Full names of layers with this name, in the probed blocks."""
    if name in LINEARS:
        return tuple(f"model.layers.{layer}.{LINEARS[name]}.{name}" for layer in _PROBED_LAYERS)
    return (name if name == "lm_head" else f"model.{name}",)


def _matched(pattern: str, name: str) -> bool:
    return any(_finds(pattern, probe) for probe in _probes(name))


def _finds(pattern: str, full_name: str) -> bool:
    """Match a layer's name like `peft.utils.get_pattern_key`."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", full_name) is not None
    except re.error as error:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"{pattern!r} is not a valid regular expression ({error}).", "Use names of layers."
        ) from error


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
