"""A store in a local folder: the same promises as a bucket's, by renames and a lock file.

Every object is written under a name that no listing shows, put to disk, and renamed: a reader, or whoever comes after a
crash, finds the old object or the new one, whole. obstore's own local store has no If-Match, gives files the mode that
the process's umask leaves, refuses names that end like `#1`, and leaves it to the kernel when the bytes reach the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, TypeVar

from airsmith.artifacts.layout import LOCK_FILE, STAGING_PREFIX
from airsmith.artifacts.objects import STREAM_CHUNK_BYTES, ObjectInfo, Piece, Version

FILE_MODE = 0o644
FOLDER_MODE = 0o755
"""Another pod's user reads what this one writes, whatever the umask."""

_CREATE_TRIES = 100
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
"""File systems that know no second names, or no more of them."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Folder:
    """Objects in a local folder. The first write makes it: a misspelt URI that is only read leaves nothing behind."""

    root: Path

    @property
    def address(self) -> str:
        """Its URI."""
        return f"file://{self.root}"

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """The whole of an object and its version, or None where there is none."""
        try:
            with self._open(path) as file:
                data = file.read()
        except FileNotFoundError:
            return None
        return data, Version(hashlib.sha256(data).hexdigest())

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Some bytes of an object."""
        with self._open(path) as file:
            file.seek(offset)
            return file.read(length)

    def stream(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """The whole of an object, piece by piece."""
        with self._open(path) as file:
            while chunk := file.read(chunk_bytes):
                yield chunk

    def put(self, path: str, data: bytes) -> None:
        """Write an object, over one that is there."""
        with self._staged(path, [data]) as staging:
            self._move(staging, path)

    def put_if(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object whose version is still the expected one, compared under the lock."""
        with self._staged(path, [data]) as staging, self._locked():
            found = self.find(path)
            if (found[1] if found is not None else None) != expected:
                return False
            self._move(staging, path)
            return True

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None) -> int:
        """Write an object from pieces; a failing piece leaves nothing."""
        with self._staged(path, chunks) as staging:
            written = staging.stat().st_size
            self._move(staging, path)
            return written

    def copy(self, source: str, target: str) -> None:
        """Write an object that is the same as another: a second name of its file, which is never written to again."""
        if not self.exists(source):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        staging = self._staging(target)
        try:
            _in_its_folder(staging, lambda: os.link(self.root / source, staging))
            self._move(staging, target)
        except OSError as failure:
            if failure.errno not in _NO_LINKS:
                raise
            self.upload(target, self.stream(source, STREAM_CHUNK_BYTES), None)
        finally:
            self._remove(staging)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder."""
        for file in _files(self.root / prefix, frozenset()):
            with suppress(FileNotFoundError):
                status = file.stat()
                modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
                yield ObjectInfo(file.relative_to(self.root).as_posix(), status.st_size, modified)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return (self.root / path).is_file()

    def delete(self, path: str) -> None:
        """Remove an object, and the folders that it leaves empty: a bucket has no such thing as an empty folder."""
        target = self.root / path
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            target.unlink()
        self._prune(target.parent)

    def free_bytes(self) -> int | None:
        """Room on the folder's disk."""
        return shutil.disk_usage(self.root).free

    def _open(self, path: str) -> BinaryIO:
        try:
            return (self.root / path).open("rb")
        except (IsADirectoryError, NotADirectoryError) as failure:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from failure

    @contextmanager
    def _staged(self, path: str, chunks: Iterable[Piece]) -> Iterator[Path]:
        """Content on disk, beside the place that it is meant for; what is not moved there is removed."""
        staging = self._staging(path)
        try:
            with _in_its_folder(staging, lambda: staging.open("xb")) as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fchmod(file.fileno(), FILE_MODE)
                os.fsync(file.fileno())
            yield staging
        finally:
            self._remove(staging)

    def _staging(self, path: str) -> Path:
        """A place beside the one that is meant."""
        return (self.root / path).with_name(f"{STAGING_PREFIX}{uuid.uuid4().hex}")

    def _remove(self, staging: Path) -> None:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
            self._prune(staging.parent)

    def _move(self, staging: Path, path: str) -> None:
        target = self.root / path
        staging.replace(target)
        _sync_folder(target.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel drops with its holder, however that ends."""
        with (self.root / LOCK_FILE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)

    def _prune(self, folder: Path) -> None:
        with suppress(OSError):
            while folder != self.root and self.root in folder.parents:
                folder.rmdir()
                folder = folder.parent


def _files(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files under a folder, links followed.

    :param above: the folders that lead here; a link back to one of them would never end.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    if (status.st_dev, status.st_ino) in above:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
    for entry in entries:
        if entry.is_dir():
            yield from _files(folder / entry.name, above | {(status.st_dev, status.st_ino)})
        elif entry.is_file() and entry.name != LOCK_FILE and not entry.name.startswith(STAGING_PREFIX):
            yield folder / entry.name


def _in_its_folder(staging: Path, make: Callable[[], Made]) -> Made:
    """Make a new file, its folders made. Somebody else may remove them in between, for they are empty."""
    for _ in range(_CREATE_TRIES):
        with suppress(FileNotFoundError):
            _make_folder(staging.parent)
            return make()
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(staging.parent))


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_file() or folder.is_symlink():
            raise
        return
    folder.chmod(FOLDER_MODE)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Put a folder's table of names to disk, where its file system knows how."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
