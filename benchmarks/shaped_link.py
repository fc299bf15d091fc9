"""A TCP proxy that limits the total bandwidth of its connections, to simulate a network on loopback."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_BLOCK_BYTES = 64 * 1024
_BURST_SECONDS = 0.02


class Bandwidth:
    """A token bucket: a number of bytes per second, shared by all senders."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    async def consume(self, size_bytes: int) -> None:
        """Wait until the link has transferred this number of bytes."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _BURST_SECONDS) + size_bytes / self._bytes_per_second
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class ShapedLink:
    """Forwards connections to a target, with a separate bandwidth limit for each direction."""

    def __init__(self, bytes_per_second: float) -> None:
        self._to_target, self._to_client = Bandwidth(bytes_per_second), Bandwidth(bytes_per_second)
        # The event loop keeps only weak references to tasks.
        self._forwarding: set[asyncio.Task[None] | None] = set()

    async def listen(self, target_port: int, port: int = 0, host: str = "127.0.0.1") -> int:
        """Forward connections to a port of this machine.

        :returns: the port that the link listens on.
        """

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._forwarding.add(asyncio.current_task())
            with suppress(ConnectionError):
                target_reader, target_writer = await asyncio.open_connection(host, target_port)
                await asyncio.gather(
                    _pump(reader, target_writer, self._to_target), _pump(target_reader, writer, self._to_client)
                )

        server = await asyncio.start_server(forward, host, port)
        return int(server.sockets[0].getsockname()[1])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bandwidth: Bandwidth) -> None:
    try:
        while block := await reader.read(_BLOCK_BYTES):
            await bandwidth.consume(len(block))
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        writer.close()
