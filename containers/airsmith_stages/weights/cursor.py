"""A stream of bytes cut anew: passed on as it comes, or in blocks of a size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Piece = TypeVar("_Piece")


class Cursor:
    """A place in a stream.

    :raises EOFError: from its methods, where the stream ends too early.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def pieces(self, size_bytes: int) -> Iterator[memoryview]:
        """So many bytes, in pieces as they come; no copy."""
        while size_bytes:
            piece = self._next(size_bytes)
            size_bytes -= len(piece)
            yield piece

    def blocks(self, size_bytes: int, block_bytes: int) -> Iterator[memoryview]:
        """So many bytes in blocks of one size, the last one maybe shorter; only what lies across pieces is copied."""
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
        """Pass over so many bytes."""
        for _ in self.pieces(size_bytes):
            pass

    def finish(self) -> None:
        """Read to the end, where a stream that is verified says whether it was right.

        :raises EOFError: where there is more than was expected.
        """
        if len(self._left) or any(len(piece) for piece in self._pieces):
            raise EOFError("there are more bytes than expected")

    def _next(self, most_bytes: int) -> memoryview:
        while not len(self._left):
            following = next(self._pieces, None)
            if following is None:
                raise EOFError(f"the stream ends {most_bytes} bytes too early")
            self._left = memoryview(following)
        piece, self._left = self._left[:most_bytes], self._left[most_bytes:]
        return piece


def prefetch(pieces: Iterable[_Piece], most: int = 2) -> Iterator[_Piece]:
    """The same pieces, made in a thread of their own, up to so many before they are asked for."""
    iterator = iter(pieces)
    end = object()
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[object]] = deque(thread.submit(next, iterator, end) for _ in range(most))
        try:
            while (piece := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield piece  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
