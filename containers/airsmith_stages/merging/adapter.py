"""Read a LoRA adapter as peft saves it: its config, and its tensors one by one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from airsmith.contracts.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.merging.elements import FLOATING, Floats, to_floats
from airsmith_stages.weights.header import Tensor
from airsmith_stages.weights.model import open_weights
from airsmith_stages.weights.readers import FileReader

_OTHER_METHODS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Options of peft's config beyond plain LoRA and DoRA; a merge that ignores them gives wrong weights."""
_BLOCK_ROWS = 4096


class Adapter:
    """An adapter's config and tensors.

    :raises AirsmithError: `bad_data` for damaged files; `verification_failed` if the adapter is of another method or
        changes nothing.
    """

    def __init__(self, source: FileReader) -> None:
        self.config = _read_config(source)
        _refuse_other_methods(self.config)
        self._weights = open_weights(source, ADAPTER_WEIGHTS)
        self.tensors: Mapping[str, Tensor] = self._weights.tensors()
        self._refuse_no_change()

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""
        return self.tensors[name].shape

    def floats(self, name: str) -> Floats:
        """A tensor's values, in its shape.

        :raises AirsmithError: `verification_failed` if they are not finite floats.
        """
        return self.rows(name, 0, matrix_shape(self.shape(name))[0]).reshape(self.shape(name))

    def rows(self, name: str, first: int, count: int) -> Floats:
        """Some rows of a tensor, which is flattened to a matrix if it has more than two dimensions.

        :raises AirsmithError: `verification_failed` if they are not finite floats.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in FLOATING:
            raise verification_failed(
                f"Adapter tensor {name} has dtype {tensor.dtype}, which is not supported",
                "Train again in float32 or bfloat16.",
            )
        rows, columns = matrix_shape(tensor.shape)
        row_bytes = tensor.size_bytes // rows if rows else 0
        begin = tensor.begin + first * row_bytes
        raw = self._weights.source.read_range(ADAPTER_WEIGHTS, begin, count * row_bytes)
        values = to_floats(raw, tensor.dtype).reshape(count, columns)
        if not np.isfinite(values).all():
            raise verification_failed(
                f"Adapter tensor {name} contains NaN or Inf", "Train again with a lower learning rate."
            )
        return values

    def are_equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        if self.shape(one) != self.shape(other):
            return False
        rows, _ = matrix_shape(self.shape(one))
        return all(
            np.array_equal(self.rows(one, first, count), self.rows(other, first, count))
            for first in range(0, rows, _BLOCK_ROWS)
            for count in [min(_BLOCK_ROWS, rows - first)]
        )

    def pattern(self, patterns: str, path: str, default: str) -> float:
        """A module's rank or alpha, looked up as peft does (`get_pattern_key`).

        :param patterns: config field that maps patterns to values.
        :param default: config field with the value of all other modules.
        """
        for pattern, value in (self.config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                return float(value)
        return float(self.config[default])

    def scaling(self, path: str, rank: int) -> float:
        """The scaling factor of a module's product; rank-stabilized if the config enables it (arXiv 2312.03732)."""
        alpha = self.pattern("alpha_pattern", path, "lora_alpha")
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    def _refuse_no_change(self) -> None:
        for name in self.tensors:
            if "lora_A" not in name and "lora_embedding_A" not in name and self.floats(name).any():
                return
        raise verification_failed(
            "All LoRA B matrices of the adapter are zero, so it changes nothing", "Check that training ran."
        )


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of any dimensions flattened to a matrix; a vector has rows of one element."""
    columns = shape[-1] if len(shape) > 1 else 1
    return (math.prod(shape) // columns if columns else 0), columns


def verification_failed(what: str, hint: str) -> AirsmithError:
    """The error of a merge that fails verification."""
    return AirsmithError(ErrorKind.VERIFICATION_FAILED, f"{what}.", hint)


def _read_config(source: FileReader) -> dict[str, Any]:
    hint = "Train again, or save the adapter with peft's save_pretrained."
    size_bytes = source.sizes().get(ADAPTER_CONFIG)
    if size_bytes is None:
        raise AirsmithError(ErrorKind.BAD_DATA, f"The adapter has no {ADAPTER_CONFIG}.", hint)
    try:
        config = json.loads(source.read_range(ADAPTER_CONFIG, 0, size_bytes))
        if isinstance(config, dict) and config["r"] > 0 and config["lora_alpha"] is not None:
            return config
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AirsmithError(ErrorKind.BAD_DATA, f"{ADAPTER_CONFIG} is not a LoRA config of peft.", hint) from error
    raise AirsmithError(ErrorKind.BAD_DATA, f"{ADAPTER_CONFIG} is not a LoRA config of peft.", hint)


def _refuse_other_methods(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise verification_failed(
            f"The adapter has peft_type {config.get('peft_type')}, not LORA", "Merge it with peft."
        )
    unsupported = [key for key in _OTHER_METHODS if config.get(key)]
    if unsupported:
        raise verification_failed(
            f"The adapter's config sets {unsupported[0]}, which is not plain LoRA or DoRA", "Merge it with peft."
        )
