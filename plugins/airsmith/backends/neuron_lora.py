"""What optimum-neuron 0.4.5 makes of a LoRA, and what it would lose without a word.

It puts layers that have the same input into one: gate and up always, q, k and v where key and value heads are copied
to more processes. Such layers share a rank, a scale and their first matrix.
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
"""The linear layers of a block, and where in it they are: what `all-linear` means."""
OTHERS = ("lm_head", "embed_tokens")
GATE_UP, QKV = ("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj")

_PROBED_LAYERS = (0, 7)
"""Two blocks: what names a layer of one of them names no layer of the other."""


def target_names(method: Method) -> tuple[str, ...]:
    """The recipe's targets as names of layers, each of which means that layer of every block.

    :raises AirsmithError: `bad_recipe` where one names no layer, or that of one block alone.
    """
    if method.name == "full":
        return method.target_modules
    named = {name for target in method.target_modules for name in _names_of(target)}
    return tuple(name for name in (*LINEARS, *OTHERS) if name in named)


def check_lora(recipe: Recipe) -> Iterable[Callable[[], None]]:
    """One check for each thing that may be lost."""
    method = recipe.method
    if method.name == "full":
        return []
    rules: tuple[Rule, ...] = (_no_dora, _no_whole_modules, _only_names, check_gate_and_up)
    return [partial(rule, method) for rule in rules]


def check_gate_and_up(method: Method) -> None:
    """See that gate and up are treated alike.

    :raises AirsmithError: `bad_recipe`.
    """
    check_fused(method, GATE_UP, "optimum-neuron makes one layer of gate and up")


def check_fused(method: Method, members: tuple[str, ...], reason: str) -> None:
    """See that layers that become one have all or nothing of what the method gives to each.

    :raises AirsmithError: `bad_recipe`, naming what to add.
    """
    targets = target_names(method)
    missing = [name for name in members if name not in targets]
    if 0 < len(missing) < len(members):
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.target_modules has {_and(name for name in members if name in targets)} without "
            f"{_and(missing)}, but {reason}: it gets LoRA as a whole or not at all.",
            f"Add {_and(missing)}, or take the other out.",
        )
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(method, field):
            lost = [name for name in members if _matched(pattern, name)]
            if lost:
                raise AirsmithError(
                    ErrorKind.BAD_RECIPE,
                    f"method.{field} has {pattern!r} for {_and(lost)}, but {reason}, which the pattern does not find: "
                    "it would be ignored.",
                    f"Remove it; method.r and method.lora_alpha hold for {_and(members)}.",
                )


def _only_names(method: Method) -> None:
    target_names(method)


def _no_dora(method: Method) -> None:
    if method.use_dora:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "method.use_dora is true, but optimum-neuron's LoRA has no magnitudes: they would be left out.",
            "Set method.use_dora to false, or train on 'cuda' or 'rocm'.",
        )


def _no_whole_modules(method: Method) -> None:
    if method.modules_to_save:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.modules_to_save has {_and(method.modules_to_save)}, but optimum-neuron saves LoRA's alone.",
            "Name lm_head or embed_tokens in method.target_modules instead, or set method.name to 'full'.",
        )


def _names_of(target: str) -> tuple[str, ...]:
    if target == "all-linear":
        return tuple(LINEARS)
    found = {name: [probe for probe in _probes(name) if _finds(target, probe)] for name in (*LINEARS, *OTHERS)}
    names = tuple(name for name, probes in found.items() if probes)
    if not names:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.target_modules has {target!r}, which names no layer that optimum-neuron gives LoRA.",
            f"Use all-linear, or some of {', '.join((*LINEARS, *OTHERS))}.",
        )
    partly = [name for name in names if len(found[name]) < len(_probes(name))]
    if partly:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"method.target_modules has {target!r}, which is a layer of some blocks, but optimum-neuron knows a target "
            "by its last name, in every block.",
            f"Use {_and(partly)}, or train on 'cuda' or 'rocm'.",
        )
    return names


def _probes(name: str) -> tuple[str, ...]:
    """Full names of layers that go by this one."""
    if name in LINEARS:
        return tuple(f"model.layers.{layer}.{LINEARS[name]}.{name}" for layer in _PROBED_LAYERS)
    return (name if name == "lm_head" else f"model.{name}",)


def _matched(pattern: str, name: str) -> bool:
    return any(_finds(pattern, probe) for probe in _probes(name))


def _finds(pattern: str, full_name: str) -> bool:
    """As `peft.utils.get_pattern_key` matches a layer's name."""
    try:
        return re.match(rf"(.*\.)?({pattern})$", full_name) is not None
    except re.error as error:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"{pattern!r} is no regular expression ({error}).", "Use the names of layers."
        ) from error


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
