"""A training that is killed repeatedly at any moment gives the same bits; damage costs one checkpoint.

`make test` draws 20 kills; `make test-training` 500.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.stages import STAGES
from airsmith.errors import AirsmithError
from airsmith_stages.stage_runner import run_stage
from airsmith_stages.training.checkpoints import Checkpoints
from tests.support.training_process import TrainCommand
from tests.support.training_runs import TrainingRuns, checkpoint_steps, history_of, nan_weight_at, trained_tensors

KILLS = 20
SEEDS = range(25 if os.environ.get("AIRSMITH_TEST_LONG") else 1)
# Functions that a training calls, and approximately how often.
CALLS = {"training_step": 46, "__getitem__": 110, "upload": 50, "create": 7, "delete": 30, "write": 12, "stream": 9}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_killed_at_random_moments_gives_the_same_bits(
    tmp_path: Path,
    train: TrainCommand,
    uninterrupted: Any,
    seed: int,
) -> None:
    draw = random.Random(seed)
    kills = trainings_started = 0
    while kills < KILLS:
        trainings_started += 1
        folder = tmp_path / f"training-{trainings_started}"
        folder.mkdir()
        run = TrainingRuns(folder).staggered_run()
        while run.pointer("train") is None:
            function = draw.choice(list(CALLS))
            code, log = train(run, (function, draw.randint(1, CALLS[function]), signal.SIGKILL))
            assert code in (0, -signal.SIGKILL), log
            kills += code != 0
        assert (trained_tensors(run), history_of(run)) == uninterrupted
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["lora", "full"])
def two_checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a store with the checkpoints of steps 8 and 12, and their key."""
    folder = tmp_path_factory.mktemp("checkpoints")
    trainings = TrainingRuns(folder)
    run = trainings.staggered_run({"name": "full"} if request.param == "full" else None)
    with pytest.raises(AirsmithError), nan_weight_at(call=25):
        run_stage("train", run)
    assert checkpoint_steps(trainings.store) == [8, 12]
    contract = STAGES["train"]
    return folder / "store", checkpoint_key(contract, run.read_spec(), run.input_pointers(contract))


def test_any_damage_to_the_newest_checkpoint_falls_back_to_the_previous(
    two_checkpoints: tuple[Path, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intact, key = two_checkpoints
    newest_folder = intact / "checkpoints" / key / "12"
    files = sorted(path.relative_to(intact) for path in newest_folder.rglob("*") if path.is_file())
    assert len(files) >= 6
    whole = restore(intact, key, tmp_path / "whole")
    assert whole[0] == 12
    cases = 0
    for file in files:
        for number, damaged in enumerate(damages((intact / file).read_bytes())):
            store = tmp_path / f"store-{cases}"
            shutil.copytree(intact, store, copy_function=os.link)
            (store / file).unlink()
            if damaged is not None:
                (store / file).write_bytes(damaged)
            found = restore(store, key, tmp_path / f"restored-{cases}")
            # A changed bit of a manifest is harmless if it does not concern the files, such as one of a date.
            harmless = file.name == "manifest.json" and found == whole
            assert found[0] == 8 or harmless, (file, number)
            assert harmless or "checkpoint 12" in caplog.text or (file.name == "manifest.json" and damaged is None)
            caplog.clear()
            shutil.rmtree(store)
            cases += 1
    assert cases >= 50  # per method; 100 in all


def restore(store: Path, key: str, local_dir: Path) -> tuple[int, dict[str, bytes]]:
    newest = Checkpoints(Store.open(f"file://{store}"), key, inputs={}, versions={}).restore_newest(local_dir)
    assert newest is not None
    return newest[0], {path.name: path.read_bytes() for path in newest[1].rglob("*") if path.is_file()}


def damages(content: bytes) -> Iterator[bytes | None]:
    """Truncate the content, flip one bit, append a byte, remove the file."""
    draw = random.Random(len(content))
    yield from (content[: draw.randrange(len(content))] for _ in range(4))
    for _ in range(4):
        place = draw.randrange(len(content))
        yield content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    yield content + b"\0"
    yield None
