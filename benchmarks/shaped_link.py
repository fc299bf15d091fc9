"""A TCP link of limited bandwidth, for all connections together: where a network is too fast to be a network's."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_BLOCK_BYTES = 64 * 1024
_BURST_SECONDS = 0.02


class Bandwidth:
    """So many bytes per second, shared by whoever sends: a token bucket."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    async def pass_on(self, size_bytes: int) -> None:
        """Return when the link has carried so many bytes more."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _BURST_SECONDS) + size_bytes / self._bytes_per_second
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class ShapedLink:
    """Listens, and carries every connection to a target, each direction within a bandwidth of its own."""

    def __init__(self, bytes_per_second: float) -> None:
        self._there, self._back = Bandwidth(bytes_per_second), Bandwidth(bytes_per_second)
        # The event loop itself keeps no task alive.
        self._carrying: set[asyncio.Task[None] | None] = set()

    async def listen(self, target_port: int, port: int = 0, host: str = "127.0.0.1") -> int:
        """Carry connections to a port of this machine.

        :returns: the port that it listens on.
        """

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._carrying.add(asyncio.current_task())
            with suppress(ConnectionError):
                there_reader, there_writer = await asyncio.open_connection(host, target_port)
                await asyncio.gather(_pump(reader, there_writer, self._there), _pump(there_reader, writer, self._back))

        server = await asyncio.start_server(carry, host, port)
        return int(server.sockets[0].getsockname()[1])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bandwidth: Bandwidth) -> None:
    try:
        while block := await reader.read(_BLOCK_BYTES):
            await bandwidth.pass_on(len(block))
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        writer.close()
