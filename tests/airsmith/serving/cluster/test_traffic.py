"""A share by the number of servers: both versions have one, and the second comes as near to its share as may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.traffic import split_servers


@pytest.mark.parametrize(
    ("servers", "percent", "split"),
    [(4, 25, (3, 1)), (2, 25, (1, 1)), (2, 99, (1, 1)), (10, 1, (9, 1)), (10, 95, (1, 9)), (3, 50, (1, 2))],
)
def test_servers_are_split_by_the_share(servers: int, percent: int, split: tuple[int, int]):
    assert split_servers(servers, percent) == split


@given(servers=st.integers(2, 1000), percent=st.integers(1, 99))
def test_no_split_comes_nearer(servers: int, percent: int):
    stable, second = split_servers(servers, percent)
    assert stable + second == servers
    assert min(stable, second) >= 1
    distances = [abs(100 * other / servers - percent) for other in range(1, servers)]
    assert abs(100 * second / servers - percent) <= min(distances) + 1e-9


def test_one_server_cannot_be_shared():
    with pytest.raises(AirsmithError, match="two servers at least") as refused:
        split_servers(1, 50)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
