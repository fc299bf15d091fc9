"""A discarded artifact leaves no file, even if another thread is still writing one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

from airsmith.artifacts.publish import ArtifactWriter
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind


def test_a_file_that_is_finished_after_the_discard_is_removed(tmp_path: Path) -> None:
    store = Store.open(f"file://{tmp_path}/store")
    writer = ArtifactWriter(store, "artifacts/dataset/d", "dataset", "d", {}, {})
    started, resume = Event(), Event()
    failures: list[AirsmithError] = []

    def pieces() -> Iterator[bytes]:
        yield b"first"
        started.set()
        resume.wait()
        yield b"last"

    def add() -> None:
        try:
            writer.add_stream("rows.jsonl", pieces())
        except AirsmithError as failure:
            failures.append(failure)

    thread = Thread(target=add)
    thread.start()
    started.wait()
    writer.discard()
    resume.set()
    thread.join()
    assert [failure.kind for failure in failures] == [ErrorKind.INTERRUPTED]
    assert list(store.list("")) == []
