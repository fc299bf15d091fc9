"""What an adapter does to a tensor of its base: in float32, in blocks of rows.

The formulas and the order of their operations are those of peft 0.21 (`tuners/lora/layer.py`,
`tuners/lora/variants.py`, `tuners/trainable_tokens/layer.py`): the result is the same to the last bit where numpy and
torch sum a product alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from airsmith_stages.merging.elements import Floats, rounded


class Change(Protocol):
    """One thing that is done to a parameter; one of more than two dimensions is seen as its rows, one after another."""

    @property
    def whole(self) -> bool:
        """Whether all rows must come at once."""

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """The rows of the parameter from the first on, changed; they may be overwritten.

        :param dtype: type of the parameter, where it counts for the rounding.
        """


@dataclass(frozen=True)
class LowRank:
    """`scaling * B @ A`, or its transpose.

    :param a: r × in.
    :param b: out × r.
    :param transposed: the parameter is in × out: GPT-2's Conv1D, and embeddings.
    :param rounds_first: the product becomes the parameter's type before it is added, as in peft's embeddings and
        `target_parameters`.
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
    """DoRA: the direction of base and product, and the magnitude beside it (https://arxiv.org/abs/2402.09353).

    :param magnitude: one per output.
    """

    product: LowRank
    magnitude: Floats

    @property
    def whole(self) -> bool:
        """A transposed parameter's norms go over all its rows."""
        return self.product.transposed

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Add the product, and bring each output to its magnitude."""
        rows += self.product.delta(first, len(rows))
        if self.product.transposed:
            return rows * (self.magnitude / _norms(rows, axis=0))
        factors = self.magnitude[first : first + len(rows)] / _norms(rows, axis=1)
        rows *= factors[:, None]
        return rows


@dataclass(frozen=True)
class ExpertsLowRank:
    """A product per expert, rounded and then added to some rows of each: peft's `target_parameters`.

    :param a: experts × r × in.
    :param b: experts × out × r.
    :param transposed: each expert's parameter is in × out.
    :param expert: the one whose rows these are, else they are all experts' rows, one after another.
    :param offset: where they begin among the expert's rows: gate and up are one parameter in memory and two in files.
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
    """Other values altogether: a module that was trained whole, a bias, an embedding of another size.

    :param read_rows: the values, from a row on, so many rows.
    """

    read_rows: Callable[[int, int], Floats]
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """The other values, as the parameter's type holds them."""
        return rounded(self.read_rows(first, len(rows)), dtype)


@dataclass(frozen=True)
class TokenRows:
    """Other rows for some tokens.

    :param tokens: which, each once.
    :param values: one row each.
    """

    tokens: npt.NDArray[np.int64]
    values: Floats
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Put in the rows that fall into this block."""
        here = (self.tokens >= first) & (self.tokens < first + len(rows))
        rows[self.tokens[here] - first] = rounded(self.values[here], dtype)
        return rows


@dataclass(frozen=True)
class Added:
    """A scaled vector on top: the bias of a LoRA B."""

    values: Floats
    scaling: float
    whole: bool = False

    def apply(self, rows: Floats, first: int, dtype: str) -> Floats:
        """Add it."""
        rows += (self.values[first : first + len(rows)] * np.float32(self.scaling))[:, None]
        return rows


def _norms(rows: Floats, axis: int) -> Floats:
    return np.sqrt(np.einsum("ij,ij->i" if axis == 1 else "ij,ij->j", rows, rows, dtype=np.float64)).astype(np.float32)
