"""What every kind of store guarantees."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airsmith.artifacts import uploads
from airsmith.artifacts.layout import checked_path
from airsmith.artifacts.store import MEBIBYTE, Store, Version
from airsmith.artifacts.uploads import copy_object
from airsmith.errors import AirsmithError, ErrorKind


def paths(store: Store, prefix: str = "") -> list[str]:
    return sorted(info.path for info in store.list(prefix))


def kind_of(failure: pytest.ExceptionInfo[AirsmithError]) -> ErrorKind:
    return failure.value.kind


def test_a_read_returns_the_last_write(store: Store) -> None:
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"two")
    assert store.read("a/b.json") == b"two"
    assert store.exists("a/b.json")


def test_a_missing_object_is_not_found(store: Store) -> None:
    store.write("folder/file", b"")
    for path in ("nothing", "folder", "folder/file/below"):
        assert not store.exists(path)
        assert store.find(path) is None
        with pytest.raises(AirsmithError, match=path) as failure:
            store.read(path)
        assert kind_of(failure) is ErrorKind.NOT_FOUND
        with pytest.raises(AirsmithError) as failure:
            list(store.stream(path))
        assert kind_of(failure) is ErrorKind.NOT_FOUND


def test_only_one_create_succeeds(store: Store) -> None:
    assert store.create("a/manifest.json", b"first")
    assert not store.create("a/manifest.json", b"second")
    assert not store.create("a/manifest.json", b"first")
    assert store.read("a/manifest.json") == b"first"


def test_a_swap_needs_the_version_that_was_read(store: Store) -> None:
    assert store.compare_and_swap("champion.json", b"1", None)
    assert not store.compare_and_swap("champion.json", b"x", None)
    _, first = store.read_with_version("champion.json")
    assert store.compare_and_swap("champion.json", b"2", first)
    assert not store.compare_and_swap("champion.json", b"3", first)
    data, second = store.read_with_version("champion.json")
    assert data == b"2"
    assert second != first


def test_a_swap_of_a_deleted_object_fails(store: Store) -> None:
    store.write("champion.json", b"1")
    _, version = store.read_with_version("champion.json")
    store.delete("champion.json")
    assert not store.compare_and_swap("champion.json", b"2", version)
    assert not store.exists("champion.json")
    assert not store.compare_and_swap("champion.json", b"2", Version('"made up"'))


def test_a_copy_is_independent_of_its_source(store: Store) -> None:
    store.upload("a/model.safetensors", [b"first"])
    copy_object(store, "a/model.safetensors", "b/c/model.safetensors", 5)
    store.upload("a/model.safetensors", [b"second"])
    assert store.read("b/c/model.safetensors") == b"first"
    store.delete("a/model.safetensors")
    assert store.read("b/c/model.safetensors") == b"first"
    assert paths(store) == ["b/c/model.safetensors"]


def test_a_copy_of_a_missing_object_creates_nothing(store: Store) -> None:
    store.write("a", b"")
    with pytest.raises(AirsmithError, match="nothing") as failure:
        copy_object(store, "nothing", "b/c", 5)
    assert kind_of(failure) is ErrorKind.NOT_FOUND
    assert paths(store) == ["a"]


def test_a_large_object_is_copied_in_parts(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 copies up to 5 GB in one request."""
    monkeypatch.setattr(uploads, "MAX_COPY_BYTES", 1000)
    monkeypatch.setattr(uploads, "_COPIED_PART_BYTES", 5 * MEBIBYTE)
    content = bytes(range(256)) * (48 * MEBIBYTE // 1024)
    s3_store.upload("a", [content], len(content))
    copy_object(s3_store, "a", "b", len(content))
    assert s3_store.read("b") == content
    assert not list(uploads.open_uploads(s3_store).list())
    with pytest.raises(AirsmithError, match="nothing") as failure:
        copy_object(s3_store, "nothing", "c", len(content))
    assert kind_of(failure) is ErrorKind.NOT_FOUND


def test_a_folder_on_a_disk_without_links_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store = Store.open(f"file://{tmp_path}")
    store.write("a", b"1")
    store.copy("a", "b/c")
    assert store.read("b/c") == b"1"
    assert paths(store) == ["a", "b/c"]


def test_a_list_matches_folders_not_name_prefixes(store: Store) -> None:
    for path in ("runs/a/spec.json", "runs/ab/spec.json", "runs/a/stages/train.json", "other"):
        store.write(path, b"123")
    assert paths(store) == ["other", "runs/a/spec.json", "runs/a/stages/train.json", "runs/ab/spec.json"]
    assert paths(store, "runs/a") == ["runs/a/spec.json", "runs/a/stages/train.json"]
    assert paths(store, "runs/a/spec.json") == []
    assert paths(store, "nothing") == []


def test_a_list_has_size_and_modification_time(store: Store) -> None:
    store.write("a", b"12345")
    (info,) = store.list("")
    assert info.size_bytes == 5
    assert abs(info.modified - datetime.now(timezone.utc)) < timedelta(minutes=5)


def test_a_list_is_not_cut_after_a_page(store: Store) -> None:
    for number in range(60):
        store.write(f"many/{number}", b"")
    assert len(paths(store, "many")) == 60


def test_delete_is_idempotent(store: Store) -> None:
    store.write("a/b/c", b"")
    store.write("a/d", b"")
    store.delete("a/b/c")
    store.delete("a/b/c")
    store.delete("never/there")
    assert paths(store) == ["a/d"]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"", b"after an empty piece", b"", b"!"],
        [b"x" * MEBIBYTE] * 3,
        [bytes([n]) * (5 * MEBIBYTE) for n in range(4)],
        [b"y" * (16 * MEBIBYTE)],
        [b"z" * (16 * MEBIBYTE + 1)],
    ],
    ids=[
        "nothing",
        "one empty piece",
        "empty pieces",
        "one part",
        "two parts",
        "exactly one part",
        "one part and a byte",
    ],
)
@pytest.mark.parametrize("size_known", [True, False], ids=["size known", "size unknown"])
def test_an_upload_is_complete(store: Store, chunks: list[bytes], size_known: bool) -> None:
    whole = b"".join(chunks)
    assert store.upload("big", iter(chunks), len(whole) if size_known else None) == len(whole)
    assert store.read("big") == whole


def test_a_file_is_uploaded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    assert store.upload_file("a/weights", tmp_path / "weights") == 100
    assert store.read("a/weights") == b"w" * 100


@pytest.mark.parametrize("pieces_before", [0, 1, 4], ids=["immediately", "in the first part", "in the second part"])
@pytest.mark.parametrize(
    "failure",
    [OSError(5, "the source's disk"), ValueError("no source"), AirsmithError(ErrorKind.HUB_UNAVAILABLE, "gone", "")],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failing_source_leaves_nothing_and_its_error_is_raised(
    store: Store, pieces_before: int, failure: Exception
) -> None:
    def source() -> Iterator[bytes]:
        yield from [b"x" * (5 * MEBIBYTE)] * pieces_before
        raise failure

    with pytest.raises(type(failure)) as raised:
        store.upload("a/b/c", source())
    assert raised.value is failure
    assert paths(store) == []


def test_ranges_and_streams_return_the_content(store: Store) -> None:
    data = bytes(range(256)) * 1000
    store.write("a", data)
    assert store.read_range("a", 10, 20) == data[10:30]
    assert store.read_range("a", len(data) - 3, 3) == data[-3:]
    assert b"".join(store.stream("a")) == data
    chunks = list(store.stream("a", chunk_bytes=100_000))
    assert b"".join(chunks) == data
    store.write("empty", b"")
    assert b"".join(store.stream("empty")) == b""


def test_stores_of_the_same_uri_are_equal(store: Store, store_uri: str) -> None:
    store.write("a", b"1")
    assert Store.open(store_uri).read("a") == b"1"
    assert Store.open(store_uri + "/").read("a") == b"1"
    assert Store.open(store_uri + "/") == Store.open(store_uri) == store


def test_a_folder_of_a_store_can_be_opened_as_a_store(store: Store, store_uri: str) -> None:
    store.write("sub/a b/c", b"1")
    inner = Store.open(f"{store_uri}/sub")
    if store_uri.startswith("memory"):
        assert not inner.exists("a b/c")  # A memory store has no folders: each name is a store.
    else:
        assert paths(inner) == ["a b/c"]


BAD_PATHS = [
    "../up",
    "a/../b",
    "/absolute",
    "a//b",
    "a/",
    "./a",
    "a/.",
    "nul\0",
    "line\nbreak",
    "back\\slash",
    "\ud800",
]
BAD_PATHS += ["x" * 1025, ".airsmith-lock", "a/.airsmith-partial-0", "\uffff", "del\x7f"]


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_an_invalid_path_is_refused_by_every_call(store: Store, path: str, tmp_path: Path) -> None:
    for call in (
        lambda: store.write(path, b""),
        lambda: store.create(path, b""),
        lambda: store.upload(path, [b""]),
        lambda: store.read(path),
        lambda: list(store.stream(path)),
        lambda: list(store.list(path)),
        lambda: store.exists(path),
        lambda: store.delete(path),
    ):
        with pytest.raises(AirsmithError, match="plain relative path") as failure:
            call()
        assert kind_of(failure) is ErrorKind.VERIFICATION_FAILED
    assert paths(store) == []
    assert not [found for found in tmp_path.rglob("*") if found.is_file()]


parts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.sampled_from(
    ["a#1", "a%20b", "%2F", "a+b", "a b", " ", "~", "&amp;", "?x=1", "*", "a:b", "'\"", "#", "CON", ".hidden", "..."]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.lists(parts, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4))
@example(names=["model#1", "a/model#12", "100%", "%41"])
def test_every_valid_name_round_trips(store: Store, names: list[str]) -> None:
    folder = f"names/{hashlib.sha256(repr(names).encode()).hexdigest()}"
    held: dict[str, bytes] = {}
    for number, name in enumerate(names):
        path = f"{folder}/{number}/{name}"
        try:
            checked_path(path)
        except ValueError:
            with pytest.raises(AirsmithError):
                store.write(path, b"")
            continue
        store.write(path, name.encode())
        held[path] = name.encode()
    assert paths(store, folder) == sorted(held)
    for path, data in held.items():
        assert store.read(path) == data
        store.delete(path)
    assert paths(store, folder) == []


@pytest.mark.parametrize(
    "uri", ["", "x", "/tmp/x", "file://relative", "file:/one", "s3://", "s3:///prefix", "ftp://a/b", "S3://a", "memory"]
)
def test_an_unsupported_uri_is_refused(uri: str) -> None:
    with pytest.raises(AirsmithError, match="file:///dir") as failure:
        Store.open(uri)
    assert kind_of(failure) is ErrorKind.BAD_RECIPE


@pytest.mark.parametrize("deadline", ["soon", "-1", "0", "nan"])
def test_an_invalid_deadline_is_refused(deadline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSMITH_STORE_DEADLINE_SECONDS", deadline)
    with pytest.raises(AirsmithError, match=f"AIRSMITH_STORE_DEADLINE_SECONDS is '{deadline}'"):
        Store.open("s3://bucket")
