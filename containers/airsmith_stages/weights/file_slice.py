"""A range of a file in a folder or a store, as a file object."""

from __future__ import annotations

import io
from typing import Any

from airsmith_stages.weights.readers import FileReader

_WINDOW_BYTES = 4096


class FileSlice(io.RawIOBase):
    """A range of a file as a file object; caches its first and last bytes, where a saved tensor is described."""

    def __init__(self, source: FileReader, name: str, begin: int, length: int) -> None:
        self._source, self._name, self._begin, self._length = source, name, begin, length
        self._position = 0
        self._windows: dict[int, bytes] = {}

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if position < 0:
            raise OSError("negative position")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Read from the current position."""
        length = max(0, min(len(buffer), self._length - self._position))
        content = self._read(self._position, length) if length else b""
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read(self, offset: int, length: int) -> bytes:
        for window in (0, max(0, self._length - _WINDOW_BYTES)):
            if window <= offset and offset + length <= window + _WINDOW_BYTES:
                if window not in self._windows:
                    self._windows[window] = self._source.read_range(
                        self._name, self._begin + window, min(_WINDOW_BYTES, self._length)
                    )
                return self._windows[window][offset - window : offset - window + length]
        return self._source.read_range(self._name, self._begin + offset, length)
