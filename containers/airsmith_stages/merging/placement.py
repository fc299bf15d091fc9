"""Map a model's parameters in memory to the tensors of its files, which may be renamed or split.

transformers renames tensors on load, and joins the experts of a layer into one parameter
(`transformers/conversion_mapping.py`); adapters use the names in memory. This module holds the part of that table that
text models need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from airsmith_stages.weights.header import Tensor

_PREFIXES = (
    ("", ""),
    ("transformer.", ""),
    ("model.", ""),
    ("gpt_neox.", ""),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model."),
)
"""Prefix of a name in memory, and its prefix in files of a model without a head or of an older version."""
_EXPERTS = re.compile(r"(?P<block>.+)\.mlp\.experts\.(?P<kind>gate_up_proj|down_proj)$")
_EXPERT_NAMES: tuple[Mapping[str, str], ...] = (
    {"block": "mlp.experts", "gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
    {"block": "block_sparse_moe.experts", "gate": "w1", "up": "w3", "down": "w2"},
)
_RENAMED = ((".mlp.", ".block_sparse_moe."),)
"""Part of a name in memory, and its counterpart in Mixtral's files."""


@dataclass(frozen=True)
class Placement:
    """A tensor in the files that holds a parameter or some rows of it.

    :param expert: index of its expert if the parameter holds all experts.
    :param first_row: its first row within the expert.
    """

    tensor: str
    expert: int | None = None
    first_row: int = 0


def placements_of(parameter: str, tensors: Mapping[str, Tensor]) -> list[Placement]:
    """The tensors that hold a parameter; empty if the files do not contain it.

    :param tensors: tensors of the files, by name.
    """
    for name in _names(parameter):
        if name in tensors:
            return [Placement(name)]
    for name in _names(parameter):
        placements = _expert_placements(name, tensors)
        if placements:
            return placements
    return []


def _names(parameter: str) -> Iterator[str]:
    for in_memory, in_files in _PREFIXES:
        if parameter.startswith(in_memory):
            name = in_files + parameter.removeprefix(in_memory)
            yield name
            for memory_part, files_part in _RENAMED:
                if memory_part in name:
                    yield name.replace(memory_part, files_part)


def _expert_placements(parameter: str, tensors: Mapping[str, Tensor]) -> list[Placement]:
    found = _EXPERTS.match(parameter)
    if not found:
        return []
    for names in _EXPERT_NAMES:
        placements: list[Placement] = []
        parts = ("gate", "up") if found["kind"] == "gate_up_proj" else ("down",)
        expert = 0
        while all((name := _expert_name(found["block"], names, expert, part)) in tensors for part in parts):
            first_row = 0
            for part in parts:
                name = _expert_name(found["block"], names, expert, part)
                placements.append(Placement(name, expert, first_row))
                first_row += tensors[name].shape[0]
            expert += 1
        if placements:
            return placements
    return []


def _expert_name(block: str, names: Mapping[str, str], expert: int, part: str) -> str:
    return f"{block}.{names['block']}.{expert}.{names[part]}.weight"
