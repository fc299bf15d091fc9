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


def test_checkpoints_are_ordered_by_number(checkpoints: Checkpoints, publish, tmp_path: Path) -> None:
    for step in (9, 10, 100, 11):
        publish(step)
    assert checkpoints.steps() == [9, 10, 11, 100]
    assert newest(checkpoints, tmp_path) == (100, "weights 100")
    checkpoints.prune(100, keep_newest=1, keep_also=10)
    assert checkpoints.steps() == [10, 100]


def test_a_training_without_checkpoints_restores_nothing(checkpoints: Checkpoints, tmp_path: Path) -> None:
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
def test_a_damaged_checkpoint_is_skipped_and_can_be_published_again(
    checkpoints: Checkpoints, publish, tmp_path: Path, how: str
) -> None:
    publish(4)
    publish(8)
    damage(checkpoints.store, 8, how)
    assert newest(checkpoints, tmp_path) == (4, "weights 4")
    publish(8)
    assert newest(checkpoints, tmp_path) == (8, "weights 8")


def test_an_intact_checkpoint_is_not_replaced(checkpoints: Checkpoints, publish, tmp_path: Path) -> None:
    publish(4, "first")
    publish(4, "second")
    assert newest(checkpoints, tmp_path) == (4, "first 4")


def test_a_store_error_is_not_reported_as_damage(checkpoints: Checkpoints, publish, tmp_path: Path) -> None:
    publish(4)
    (tmp_path / "store").chmod(0o755)
    manifest = tmp_path / "store/checkpoints/key/4/manifest.json"
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(AirsmithError) as failed:
        checkpoints.restore(4, tmp_path / "restored")
    assert failed.value.kind is not ErrorKind.VERIFICATION_FAILED


def test_pruning_removes_only_older_incomplete_uploads(checkpoints: Checkpoints, publish) -> None:
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


def test_pruning_keeps_the_checkpoints_of_later_steps(checkpoints: Checkpoints, publish) -> None:
    for step in (40, 50, 290, 300, 100):
        publish(step)
    checkpoints.prune(100, keep_newest=2, keep_also=None)
    assert checkpoints.steps() == [50, 100, 290, 300]


def failing() -> dict[str, bytes]:
    raise FileNotFoundError("weights")


def test_a_failed_upload_fails_the_next_one(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with CheckpointUploader(checkpoints, keep_newest=2) as uploader:
        uploader.submit(4, failing, tmp_path, best_step=None)
        with pytest.raises(FileNotFoundError):
            uploader.submit(8, dict, tmp_path, best_step=None)


def test_closing_waits_for_the_last_upload_and_raises_its_error(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    with CheckpointUploader(checkpoints, keep_newest=2) as uploader:
        uploader.submit(4, lambda: {"weights": b"4"}, folder, best_step=None)
    assert checkpoints.steps() == [4]
    assert not folder.exists()
    with pytest.raises(FileNotFoundError), CheckpointUploader(checkpoints, keep_newest=2) as uploader:
        uploader.submit(8, failing, folder, best_step=None)
