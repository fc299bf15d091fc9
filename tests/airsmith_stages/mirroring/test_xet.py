"""The buffers of hf_xet are limited to a fraction of the process's memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hf_xet import XetConfig, XetSession

from airsmith_stages.mirroring.xet import buffer_limits, is_xet_enabled, memory_bytes

GIBIBYTE = 2**30


@pytest.mark.parametrize("memory", [GIBIBYTE, 64 * GIBIBYTE])
def test_every_buffer_is_limited_to_a_quarter_of_the_memory(memory: int) -> None:
    config = XetConfig().with_config(buffer_limits(memory))
    XetSession(config)
    for key, value in config.items():
        if key.startswith("reconstruction.") and ("buffer" in key or "fetch_size" in key):
            assert value <= memory // 4, key


@pytest.mark.parametrize(("text", "expected"), [("1073741824\n", GIBIBYTE), ("max\n", None), (None, None)])
def test_the_memory_limit_of_the_cgroup_applies(tmp_path: Path, text: str | None, expected: int | None) -> None:
    limit = tmp_path / "memory.max"
    if text is not None:
        limit.write_text(text)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_bytes(limit) == (expected or physical)


def test_it_is_used_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRSMITH_HUB_XET", raising=False)
    assert not is_xet_enabled()
    monkeypatch.setenv("AIRSMITH_HUB_XET", "1")
    assert is_xet_enabled()
