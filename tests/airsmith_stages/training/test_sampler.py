from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from airsmith_stages.training.sampler import SeededBatchSampler

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))


def batches(sampler: SeededBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@given(lengths, st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_an_epoch_has_every_row_once_in_batches_of_limited_size(
    lengths: np.ndarray, rows_per_batch: int, accumulation: int, seed: int
) -> None:
    sampler = SeededBatchSampler(lengths, rows_per_batch * accumulation, rows_per_batch, seed)
    epoch = batches(sampler, 3)
    assert len(epoch) == len(sampler)
    assert sorted(row for batch in epoch for row in batch) == list(range(len(lengths)))
    assert all(len(batch) <= rows_per_batch for batch in epoch)
    assert -(-len(epoch) // accumulation) == sampler.steps_per_epoch


@given(lengths, st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1), st.integers(0, 20))
def test_the_rows_of_a_step_do_not_depend_on_the_batch_size(
    lengths: np.ndarray, rows_per_batch: int, seed: int, epoch: int
) -> None:
    small_batches = batches(SeededBatchSampler(lengths, 8, rows_per_batch, seed), epoch)
    large_batches = batches(SeededBatchSampler(lengths, 8, 8, seed), epoch)
    flat = [row for batch in small_batches for row in batch]
    assert flat == [row for batch in large_batches for row in batch]


@given(lengths, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_ranks_share_the_rows_of_every_step_in_equally_many_batches(
    lengths: np.ndarray, rows_per_batch: int, accumulation: int, world_size: int, seed: int
) -> None:
    rows_per_step = rows_per_batch * accumulation * world_size
    alone = batches(SeededBatchSampler(lengths, rows_per_step, rows_per_step, seed), 2)
    samplers = [
        SeededBatchSampler(lengths, rows_per_step, rows_per_batch, seed, rank, world_size) for rank in range(world_size)
    ]
    shares = [batches(sampler, 2) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers] == [len(shares[0])] * world_size
    for step, rows in enumerate(alone):
        mine = slice(step * accumulation, (step + 1) * accumulation)
        assert sorted(row for share in shares for batch in share[mine] for row in batch) == sorted(rows)


@given(lengths, st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_tokens_until_a_step_are_those_of_its_batches(
    lengths: np.ndarray, rows_per_step: int, seed: int, steps: int
) -> None:
    sampler = SeededBatchSampler(lengths, rows_per_step, rows_per_step, seed)
    taken = [batch for epoch in range(steps + 1) for batch in batches(sampler, epoch)][:steps]
    assert sampler.tokens_until(steps) == sum(int(lengths[row]) for batch in taken for row in batch)


def test_every_epoch_and_every_seed_has_a_different_order() -> None:
    lengths = np.ones(200, dtype=np.int64)
    orders = {
        str(batches(SeededBatchSampler(lengths, 8, 8, seed), epoch)) for seed in (0, 1, 2**32 - 1) for epoch in range(3)
    }
    assert len(orders) == 9
    assert batches(SeededBatchSampler(lengths, 8, 8, 5), 2) == batches(SeededBatchSampler(lengths, 8, 8, 5), 2)
