from __future__ import annotations

from pathlib import Path

import pytest

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.training.checkpoints import Checkpoints, CheckpointUploader


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(
        Store.open(f"file://{tmp_path}/store"), "key", inputs={"tokenize": "digest"}, versions={"torch": "1"}
    )


@pytest.fixture
def publish(checkpoints: Checkpoints, tmp_path: Path):
    def publish_step(step: int, content: str = "weights") -> None:
        folder = tmp_path / f"local-{step}"
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(f"{content} {step}")
        checkpoints.publish(step, {"weights": folder / "weights"})

    return publish_step


def newest(checkpoints: Checkpoints, tmp_path: Path) -> tuple[int, str] | None:
    found = checkpoints.restore_newest(tmp_path / "restored")
    return None if found is None else (found[0], (found[1] / "weights").read_text())


def test_ten_is_newer_than_nine(checkpoints: Checkpoints, publish, tmp_path: Path) -> None:
    for step in (9, 10, 100, 11):
        publish(step)
    assert checkpoints.steps() == [9, 10, 11, 100]
    assert newest(checkpoints, tmp_path) == (100, "weights 100")
    checkpoints.prune(100, keep_newest=1, keep_also=10)
    assert checkpoints.steps() == [10, 100]


def test_there_may_be_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert checkpoints.steps() == []
    assert newest(checkpoints, tmp_path) is None


def damage(store: Store, step: int, how: str) -> None:
    paths = {Path(info.path).name: info.path for info in store.list(f"checkpoints/key/{step}")}
    target = paths["manifest.json" if "manifest" in how else "weights"]
    content = store.read(target)
    if "removed" in how:
        store.delete(target)
    elif "flipped" in how:
        store.write(target, bytes([content[0] ^ 1]) + content[1:])
    elif "longer" in how:
        store.write(target, content + b"x")
    elif "empty" in how:
        store.write(target, b"")
    else:
        store.write(target, content[:-1])


@pytest.mark.parametrize(
    "how",
    ["flipped", "truncated", "longer", "empty", "removed", "manifest truncated", "manifest empty", "manifest removed"],
)
def test_a_damaged_one_is_passed_over_and_can_be_published_again(
    checkpoints: Checkpoints, publish, tmp_path: Path, how: str
) -> None:
    publish(4)
    publish(8)
    damage(checkpoints.store, 8, how)
    assert newest(checkpoints, tmp_path) == (4, "weights 4")
    publish(8)
    assert newest(checkpoints, tmp_path) == (8, "weights 8")


def test_one_that_is_there_and_whole_is_kept(checkpoints: Checkpoints, publish, tmp_path: Path) -> None:
    publish(4, "first")
    publish(4, "second")
    assert newest(checkpoints, tmp_path) == (4, "first 4")


def test_an_unreachable_store_is_not_taken_for_damage(checkpoints: Checkpoints, publish, tmp_path: Path) -> None:
    publish(4)
    (tmp_path / "store").chmod(0o755)
    manifest = tmp_path / "store/checkpoints/key/4/manifest.json"
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(AirsmithError) as failed:
        checkpoints.restore(4, tmp_path / "restored")
    assert failed.value.kind is not ErrorKind.VERIFICATION_FAILED


def test_pruning_takes_what_a_killed_upload_left_but_not_what_is_newer(checkpoints: Checkpoints, publish) -> None:
    store = checkpoints.store
    for step in (2, 4, 6):
        publish(step)
    store.write("checkpoints/key/3/attempt=dead/weights", b"half")
    store.write("checkpoints/key/8/attempt=alive/weights", b"half")
    store.write("checkpoints/other-key/1/manifest.json", b"{}")
    checkpoints.prune(6, keep_newest=2, keep_also=None)
    assert checkpoints.steps() == [4, 6]
    left = {info.path.split("/")[2] for info in store.list("checkpoints/key")}
    assert left == {"4", "6", "8"}
    assert store.exists("checkpoints/other-key/1/manifest.json")


def test_pruning_leaves_the_checkpoints_of_a_training_that_went_further(checkpoints: Checkpoints, publish) -> None:
    for step in (40, 50, 290, 300, 100):
        publish(step)
    checkpoints.prune(100, keep_newest=2, keep_also=None)
    assert checkpoints.steps() == [50, 100, 290, 300]


def failing() -> dict[str, bytes]:
    raise FileNotFoundError("weights")


def test_an_upload_that_fails_stops_the_next_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with CheckpointUploader(checkpoints, keep_newest=2) as uploader:
        uploader.submit(4, failing, tmp_path, best_step=None)
        with pytest.raises(FileNotFoundError):
            uploader.submit(8, dict, tmp_path, best_step=None)


def test_the_last_upload_is_waited_for_and_its_failure_told(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    with CheckpointUploader(checkpoints, keep_newest=2) as uploader:
        uploader.submit(4, lambda: {"weights": b"4"}, folder, best_step=None)
    assert checkpoints.steps() == [4]
    assert not folder.exists()
    with pytest.raises(FileNotFoundError), CheckpointUploader(checkpoints, keep_newest=2) as uploader:
        uploader.submit(8, failing, folder, best_step=None)
