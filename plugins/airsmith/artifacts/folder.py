"""A store in a local folder, with the guarantees of a bucket, based on renames and a lock file.

Every object is written to a hidden file, synced to disk and renamed. Readers see either the old or the new object
complete, even after a crash. obstore's local store has no If-Match, applies the umask to file modes, rejects names that
end in `#1` or similar, and does not sync files to disk.
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
"""Pods with another user must be able to read the files, whatever the umask."""

_CREATE_ATTEMPTS = 100
_LINKS_UNSUPPORTED = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that do not support hard links, or no more of them."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Folder:
    """Objects in a local folder. The first write creates it, so reading a misspelled URI creates nothing."""

    root: Path

    @property
    def address(self) -> str:
        """Its URI."""
        return f"file://{self.root}"

    def find(self, path: str) -> tuple[bytes, Version] | None:
        """Read an object and its version; None if it does not exist."""
        try:
            with self._open(path) as file:
                data = file.read()
        except FileNotFoundError:
            return None
        return data, Version(hashlib.sha256(data).hexdigest())

    def get_range(self, path: str, offset: int, length: int) -> bytes:
        """Read a range of an object."""
        with self._open(path) as file:
            file.seek(offset)
            return file.read(length)

    def stream(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """Read an object in pieces."""
        with self._open(path) as file:
            while chunk := file.read(chunk_bytes):
                yield chunk

    def put(self, path: str, data: bytes) -> None:
        """Write an object and replace an existing one."""
        with self._staged(path, [data]) as staging:
            self._move(staging, path)

    def put_if_unchanged(self, path: str, data: bytes, expected: Version | None) -> bool:
        """Write an object if its version is still the expected one, compared under the lock."""
        with self._staged(path, [data]) as staging, self._locked():
            found = self.find(path)
            if (found[1] if found is not None else None) != expected:
                return False
            self._move(staging, path)
            return True

    def upload(self, path: str, chunks: Iterable[Piece], size_bytes: int | None) -> int:
        """Write an object from pieces; if a piece fails, nothing is written."""
        with self._staged(path, chunks) as staging:
            written = staging.stat().st_size
            self._move(staging, path)
            return written

    def copy(self, source: str, target: str) -> None:
        """Copy an object as a hard link; a file is never modified after it is written."""
        if not self.exists(source):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        staging = self._staging_path(target)
        try:
            _create_with_parents(staging, lambda: os.link(self.root / source, staging))
            self._move(staging, target)
        except OSError as failure:
            if failure.errno not in _LINKS_UNSUPPORTED:
                raise
            self.upload(target, self.stream(source, STREAM_CHUNK_BYTES), None)
        finally:
            self._remove(staging)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List all objects in a folder."""
        for file in _files(self.root / prefix, frozenset()):
            with suppress(FileNotFoundError):
                status = file.stat()
                modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
                yield ObjectInfo(file.relative_to(self.root).as_posix(), status.st_size, modified)

    def exists(self, path: str) -> bool:
        """Whether the object exists."""
        return (self.root / path).is_file()

    def delete(self, path: str) -> None:
        """Delete an object and the folders that become empty, because a bucket has no empty folders."""
        target = self.root / path
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            target.unlink()
        self._prune(target.parent)

    def free_bytes(self) -> int | None:
        """Free space on the folder's disk."""
        return shutil.disk_usage(self.root).free

    def _open(self, path: str) -> BinaryIO:
        try:
            return (self.root / path).open("rb")
        except (IsADirectoryError, NotADirectoryError) as failure:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from failure

    @contextmanager
    def _staged(self, path: str, chunks: Iterable[Piece]) -> Iterator[Path]:
        """Write the content to a hidden file next to its target; if it is not moved there, delete it."""
        staging = self._staging_path(path)
        try:
            with _create_with_parents(staging, lambda: staging.open("xb")) as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fchmod(file.fileno(), FILE_MODE)
                os.fsync(file.fileno())
            yield staging
        finally:
            self._remove(staging)

    def _staging_path(self, path: str) -> Path:
        """Path of a hidden file next to an object."""
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
        """Hold the folder's lock, which the kernel releases when the process exits."""
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


def _files(folder: Path, ancestors: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files under a folder; symbolic links are followed.

    :param ancestors: device and inode of the parent folders, to detect a link back to one of them.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    if (status.st_dev, status.st_ino) in ancestors:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
    for entry in entries:
        if entry.is_dir():
            yield from _files(folder / entry.name, ancestors | {(status.st_dev, status.st_ino)})
        elif entry.is_file() and entry.name != LOCK_FILE and not entry.name.startswith(STAGING_PREFIX):
            yield folder / entry.name


def _create_with_parents(staging: Path, make: Callable[[], _T]) -> _T:
    """Create a file and its folders. Retry, because another process may remove the empty folders in between."""
    for _ in range(_CREATE_ATTEMPTS):
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
    """Sync a folder's directory entries to disk, if its file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
