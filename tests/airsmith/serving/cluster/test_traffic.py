"""A traffic split by replicas: each revision has at least one, and the split is the closest possible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.traffic import split_replicas


@pytest.mark.parametrize(
    ("servers", "percent", "split"),
    [(4, 25, (3, 1)), (2, 25, (1, 1)), (2, 99, (1, 1)), (10, 1, (9, 1)), (10, 95, (1, 9)), (3, 50, (1, 2))],
)
def test_servers_are_split_by_the_percentage(servers: int, percent: int, split: tuple[int, int]):
    assert split_replicas(servers, percent) == split


@given(servers=st.integers(2, 1000), percent=st.integers(1, 99))
def test_no_other_split_is_closer_to_the_percentage(servers: int, percent: int):
    stable, second = split_replicas(servers, percent)
    assert stable + second == servers
    assert min(stable, second) >= 1
    distances = [abs(100 * other / servers - percent) for other in range(1, servers)]
    assert abs(100 * second / servers - percent) <= min(distances) + 1e-9


def test_a_single_server_cannot_be_split():
    with pytest.raises(AirsmithError, match="at least two replicas") as refused:
        split_replicas(1, 50)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
