"""What a store in a local folder guarantees beyond the contract: modes, unfinished files, links, full disks."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airsmith.artifacts.store import MEBIBYTE, Store
from airsmith.errors import AirsmithError, ErrorKind

UNPRIVILEGED_UID = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Store:
    return Store.open(f"file://{root}")


@contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Drop root's privileges, which override file modes."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(UNPRIVILEGED_UID)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder with mode 0555."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_opening_and_reading_create_nothing(root: Path, store: Store) -> None:
    assert list(store.list("")) == []
    assert not store.exists("a")
    store.delete("a/b")
    assert not root.exists()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_another_user_can_read_but_not_write(root: Path, store: Store, umask: int) -> None:
    before = os.umask(umask)
    try:
        store.write("a/written", b"")
        store.create("a/b/created", b"")
        store.upload("a/c/d/uploaded", [b"x"])
    finally:
        os.umask(before)
    objects = [root / info.path for info in store.list("")]
    assert len(objects) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in objects} == {0o644}
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o755}


def test_an_unfinished_file_is_not_listed(root: Path, store: Store) -> None:
    seen: list[str] = []
    unfinished: list[Path] = []

    def chunks() -> Iterator[bytes]:
        yield b"first"
        seen.extend(info.path for info in store.list(""))
        unfinished.extend(files_under(root))
        yield b"second"

    store.upload("a/b", chunks())
    assert seen == []
    assert len(unfinished) == 1
    assert [info.path for info in store.list("")] == ["a/b"]
    assert files_under(root) == [root / "a/b"]


def test_deleting_removes_empty_folders_inside_the_store(root: Path, store: Store) -> None:
    store.write("a/b/c/d", b"")
    store.write("a/e", b"")
    store.delete("a/b/c/d")
    assert not (root / "a/b").exists()
    store.delete("a/e")
    assert list(root.iterdir()) == []


def test_a_path_cannot_be_both_a_file_and_a_folder(store: Store) -> None:
    store.write("a/b", b"")
    for path in ("a", "a/b/c"):
        for call in (
            lambda path=path: store.write(path, b""),
            lambda path=path: store.create(path, b""),
            lambda path=path: store.upload(path, [b""]),
        ):
            with pytest.raises(AirsmithError, match=path) as failure:
                call()
            assert failure.value.kind is ErrorKind.VERIFICATION_FAILED
    assert [info.path for info in store.list("")] == ["a/b"]


def test_a_name_that_is_too_long_for_the_file_system_is_refused(store: Store) -> None:
    with pytest.raises(AirsmithError, match="255 bytes") as failure:
        store.write("é" * 200, b"")
    assert failure.value.kind is ErrorKind.VERIFICATION_FAILED


def test_links_are_followed_and_a_loop_is_an_error(root: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/file").write_bytes(b"123")
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "file").symlink_to(tmp_path / "elsewhere/deep/file")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    assert [(info.path, info.size_bytes) for info in store.list("")] == [("file", 3), ("link/deep/file", 3)]
    (root / "loop").symlink_to(root)
    with pytest.raises(AirsmithError, match="loop") as failure:
        list(store.list(""))
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE


@pytest.mark.parametrize("name", ["with space", "with#hash", "with?mark", "100%", "ünïcode"])
def test_any_folder_can_be_a_store(tmp_path: Path, name: str) -> None:
    Store.open((tmp_path / name).as_uri()).write("a", b"1")
    assert (tmp_path / name / "a").read_bytes() == b"1"
    if "%" not in name:
        assert Store.open(f"file://{tmp_path}/{name}").read("a") == b"1"


def test_a_folder_without_write_permission_is_named(read_only_folder: Path) -> None:
    store = Store.open(f"file://{read_only_folder}")
    for call in (
        lambda: store.write("a", b""),
        lambda: store.write("new/folder/a", b""),
        lambda: store.create("a", b""),
        lambda: store.upload("a", [b""]),
    ):
        with as_unprivileged_user(), pytest.raises(AirsmithError, match=str(read_only_folder)) as failure:
            call()
        assert failure.value.kind is ErrorKind.ACCESS_DENIED
        assert "Permission denied" in failure.value.message
        assert str(read_only_folder) in failure.value.hint
    assert list(read_only_folder.iterdir()) == []


def test_a_folder_without_read_permission_is_named(read_only_folder: Path) -> None:
    read_only_folder.chmod(0o755)
    store = Store.open(f"file://{read_only_folder}")
    store.write("private/a", b"secret")
    (read_only_folder / "private").chmod(0o700)
    for call in (lambda: store.read("private/a"), lambda: list(store.list("")), lambda: store.exists("private/a")):
        with as_unprivileged_user(), pytest.raises(AirsmithError, match="private") as failure:
            call()
        assert failure.value.kind is ErrorKind.ACCESS_DENIED


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    store = Store.open(f"file://{small_disk}/store")
    store.write("a", b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(AirsmithError, match="Read-only file system") as failure:
        store.write("b", b"2")
    assert failure.value.kind is ErrorKind.ACCESS_DENIED
    assert str(small_disk) in failure.value.message
    assert store.read("a") == b"1"


def test_a_full_disk_is_reported_with_the_space_needed(small_disk: Path) -> None:
    store = Store.open(f"file://{small_disk}/store")
    store.write("a", b"1")
    chunks = [b"x" * (MEBIBYTE // 4)] * 8
    with pytest.raises(AirsmithError, match="2 MiB needed") as failure:
        store.upload("big", iter(chunks), 2 * MEBIBYTE)
    assert failure.value.kind is ErrorKind.DISK_FULL
    assert str(small_disk) in failure.value.message
    assert "free" in failure.value.message
    assert [info.path for info in store.list("")] == ["a"]
    assert files_under(small_disk) == [small_disk / "store/a"], "the unfinished file is removed"
    store.write("small", b"fits again")


def test_a_file_size_limit_is_reported_as_a_full_disk(store: Store, root: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEBIBYTE, before[1]))
    try:
        with pytest.raises(AirsmithError) as failure:
            store.upload("big", [b"x" * MEBIBYTE] * 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failure.value.kind is ErrorKind.DISK_FULL
    assert files_under(root) == []
