"""Re-slice a stream of bytes: in pieces as they arrive, or in blocks of a given size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Piece = TypeVar("_Piece")


class Cursor:
    """A position in a stream.

    :raises EOFError: from its methods, if the stream ends too early.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def pieces(self, size_bytes: int) -> Iterator[memoryview]:
        """The next bytes, in pieces as they arrive, without a copy."""
        while size_bytes:
            piece = self._next(size_bytes)
            size_bytes -= len(piece)
            yield piece

    def blocks(self, size_bytes: int, block_bytes: int) -> Iterator[memoryview]:
        """The next bytes in blocks of equal size; the last may be shorter. Copies only blocks that span pieces."""
        while size_bytes:
            length = min(block_bytes, size_bytes)
            block = self._next(length)
            if len(block) < length:
                whole = bytearray(block)
                for piece in self.pieces(length - len(block)):
                    whole += piece
                block = memoryview(whole)
            size_bytes -= length
            yield block

    def skip(self, size_bytes: int) -> None:
        """Skip the next bytes."""
        for _ in self.pieces(size_bytes):
            pass

    def finish(self) -> None:
        """Read to the end, where a verified stream checks its hash.

        :raises EOFError: if there are more bytes.
        """
        if len(self._left) or any(len(piece) for piece in self._pieces):
            raise EOFError("the stream has more bytes than expected")

    def _next(self, max_bytes: int) -> memoryview:
        while not len(self._left):
            following = next(self._pieces, None)
            if following is None:
                raise EOFError(f"the stream ends {max_bytes} bytes too early")
            self._left = memoryview(following)
        piece, self._left = self._left[:max_bytes], self._left[max_bytes:]
        return piece


def prefetch(pieces: Iterable[_Piece], depth: int = 2) -> Iterator[_Piece]:
    """The same pieces, produced in another thread up to `depth` pieces ahead of the consumer."""
    iterator = iter(pieces)
    end = object()
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[object]] = deque(thread.submit(next, iterator, end) for _ in range(depth))
        try:
            while (piece := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield piece  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
