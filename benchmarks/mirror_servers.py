"""Serve the local Hub and an S3 server, each behind a link of limited bandwidth, until stdin is closed.

`python -m benchmarks.mirror_servers HUB_FOLDER S3_PORT MEGABYTES_PER_SECOND` (prints the addresses as one line of JSON)
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from benchmarks.shaped_link import ShapedLink
from demo.hub.api import build_app
from demo.hub.server import build_server, listen, port_of


async def _serve(hub_folder: Path, s3_port: int, bytes_per_second: float) -> None:
    hub_link, s3_link = ShapedLink(bytes_per_second), ShapedLink(bytes_per_second)
    api, storage = listen(), listen()
    api_port, storage_port = await hub_link.listen(port_of(api)), await hub_link.listen(port_of(storage))
    server = build_server(build_app(hub_folder, storage_port))
    serving = asyncio.create_task(server.serve([api, storage]))
    addresses = {"hub": api_port, "s3": await s3_link.listen(s3_port)}
    print(json.dumps({name: f"http://127.0.0.1:{port}" for name, port in addresses.items()}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) * 1e6))
