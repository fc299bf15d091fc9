"""Changes of an adapter to a tensor of its base, computed in float32 and in blocks of rows.

Formulas and order of operations follow peft 0.21 (`tuners/lora/layer.py`, `tuners/lora/variants.py`,
`tuners/trainable_tokens/layer.py`): results are bitwise equal if numpy and torch sum products in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from airsmith_stages.merging.elements import Floats, rounded


class Change(Protocol):
    """A change to a parameter, which is flattened to a matrix if it has more than two dimensions."""

    @property
    def whole(self) -> bool:
        """Whether `apply` needs all rows at once."""

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Return the changed rows; the argument may be overwritten.

        :param rows: rows of the parameter.
        :param first: number of the first row.
        :param dtype: type of the parameter, for changes that round to it.
        """


@dataclass(frozen=True)
class LowRank:
    """`scaling * B @ A`, or its transpose.

    :param a: r × in.
    :param b: out × r.
    :param transposed: the parameter is in × out, as in GPT-2's Conv1D and embeddings.
    :param rounds_first: the product is rounded to the parameter's type before it is added, as in peft's embeddings
        and `target_parameters`.
    """

    a: Floats
    b: Floats
    scaling: float
    transposed: bool = False
    rounds_first: bool = False
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Add the product."""
        product = self.delta(first, len(rows))
        rows += rounded(product, dtype) if self.rounds_first else product
        return rows

    def delta(self, first: int, count: int) -> Floats:
        """Some rows of the product."""
        part = slice(first, first + count)
        product = self.a[:, part].T @ self.b.T if self.transposed else self.b[part] @ self.a
        product *= np.float32(self.scaling)
        return product


@dataclass(frozen=True)
class Dora:
    """DoRA: the direction of base plus product, scaled to a trained magnitude (https://arxiv.org/abs/2402.09353).

    :param magnitude: one value per output.
    """

    product: LowRank
    magnitude: Floats

    @property
    def whole(self) -> bool:
        """The norms of a transposed parameter run over all its rows."""
        return self.product.transposed

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Add the product and scale each output to its magnitude."""
        rows += self.product.delta(first, len(rows))
        if self.product.transposed:
            return rows * (self.magnitude / _norms(rows, axis=0))
        factors = self.magnitude[first : first + len(rows)] / _norms(rows, axis=1)
        rows *= factors[:, None]
        return rows


@dataclass(frozen=True)
class ExpertsLowRank:
    """A product per expert, rounded and then added to some rows of each expert: peft's `target_parameters`.

    :param a: experts × r × in.
    :param b: experts × out × r.
    :param transposed: each expert's parameter is in × out.
    :param expert: index of the expert that the rows belong to; None for the concatenated rows of all experts.
    :param offset: first row within the expert: gate and up are one parameter in memory and two in files.
    """

    a: Floats
    b: Floats
    scaling: float
    transposed: bool = False
    expert: int | None = None
    offset: int = 0
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Add the products."""
        if self.expert is not None:
            self._add(rows, self.expert, self.offset + first, dtype)
            return rows
        per_expert = self.a.shape[2] if self.transposed else self.b.shape[1]
        done = 0
        while done < len(rows):
            expert, row = divmod(first + done, per_expert)
            count = min(per_expert - row, len(rows) - done)
            self._add(rows[done : done + count], expert, row, dtype)
            done += count
        return rows

    def _add(self, rows: Floats, expert: int, first: int, dtype: str) -> None:
        product = LowRank(self.a[expert], self.b[expert], self.scaling, self.transposed).delta(first, len(rows))
        rows += rounded(product, dtype)


@dataclass(frozen=True)
class Replaced:
    """A full replacement: a fully trained module, a bias, an embedding of another size.

    :param read_rows: reads rows of the new values, from a first row and a number of rows.
    """

    read_rows: Callable[[int, int], Floats]
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Return the new values, rounded to the parameter's type."""
        return rounded(self.read_rows(first, len(rows)), dtype)


@dataclass(frozen=True)
class TokenRows:
    """Replaced embedding rows of some tokens.

    :param tokens: unique token ids.
    :param values: one row per token.
    """

    tokens: npt.NDArray[np.int64]
    values: Floats
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Replace the rows that are in this block."""
        here = (self.tokens >= first) & (self.tokens < first + len(rows))
        rows[self.tokens[here] - first] = rounded(self.values[here], dtype)
        return rows


@dataclass(frozen=True)
class Added:
    """An added, scaled vector: the bias of a LoRA B."""

    values: Floats
    scaling: float
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Add the vector."""
        rows += (self.values[first : first + len(rows)] * np.float32(self.scaling))[:, None]
        return rows


def _norms(rows: Floats, axis: int) -> Floats:
    return np.sqrt(np.einsum("ij,ij->i" if axis == 1 else "ij,ij->j", rows, rows, dtype=np.float64)).astype(np.float32)
