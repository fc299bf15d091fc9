"""A quota that is temporarily exhausted is distinguished from one that is too small."""

from __future__ import annotations

import json

import pytest

from airsmith.preflight.quota import is_ever_within


@pytest.mark.parametrize(
    ("requested", "limited", "fits"),
    [
        ("requests.memory=8Gi", "requests.memory=16Gi", True),
        ("requests.memory=8Gi", "requests.memory=8192Mi", True),
        ("requests.memory=8Gi", "requests.memory=6G", False),
        ("requests.cpu=500m,requests.nvidia.com/gpu=4", "requests.cpu=2,requests.nvidia.com/gpu=4", True),
        ("requests.cpu=500m,requests.nvidia.com/gpu=4", "requests.cpu=2,requests.nvidia.com/gpu=2", False),
    ],
)
def test_a_quota_fits_if_it_is_large_enough_for_the_pod_alone(requested: str, limited: str, fits: bool):
    message = f'pods "p" is forbidden: exceeded quota: q, requested: {requested}, used: cpu=1, limited: {limited}'
    assert is_ever_within(json.dumps({"message": message, "reason": "Forbidden"})) is fits


def test_other_refusals_do_not_fit():
    assert not is_ever_within('{"message": "pods is forbidden: User cannot create resource"}')
