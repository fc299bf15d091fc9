from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airsmith.backends import get_backend
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.accelerators import cpu, get_accelerator


def test_an_unknown_backend_is_refused_with_those_there_are() -> None:
    with pytest.raises(AirsmithError, match="'tpu'") as refused:
        get_accelerator("tpu")
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert "cpu" in refused.value.hint


def test_every_precision_of_the_backend_has_arguments() -> None:
    arguments = {p: get_accelerator("cpu").training_arguments(p) for p in get_backend("cpu").precisions}
    assert {precision: args["bf16"] for precision, args in arguments.items()} == {"float32": False, "bfloat16": True}
    assert all(args["use_cpu"] for args in arguments.values())


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 8), (None, 8)]
)
def test_a_container_takes_no_more_cores_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, cores: int
) -> None:
    monkeypatch.setattr(cpu, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cpu.thread_count() == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu.thread_count() == 3


def test_preparing_sets_the_process_up_before_torch_is_loaded() -> None:
    code = """
import os, sys
from airsmith_stages.accelerators import get_accelerator
import airsmith_stages.train
accelerator = get_accelerator("cpu")
assert "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ
accelerator.prepare()
import torch
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
assert torch.are_deterministic_algorithms_enabled()
assert torch.get_num_threads() == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"OMP_NUM_THREADS": "2"})
