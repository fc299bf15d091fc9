"""Serve a folder of repositories as a local Hub: `python -m demo.hub --root DIR`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.hub.api import build_app
from demo.hub.repository import write_atomically
from demo.hub.server import HOST, address_of, build_server, listen, port_of


def main() -> None:
    """Serve until SIGTERM or SIGINT. The address file exists while the Hub is being served."""
    arguments = _parse_arguments()
    try:
        listener, storage = listen(arguments.port), listen()
    except OSError as error:
        sys.exit(f"The local Hub cannot listen on {HOST}:{arguments.port} ({error.strerror}). Choose another --port.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn shuts down first, then raises the signal again
    server = build_server(build_app(arguments.root, port_of(storage)))
    print(address_of(listener), flush=True)
    with _address_written(address_of(listener), arguments.address_file):
        server.run([listener, storage])


@contextmanager
def _address_written(address: str, address_file: Path | None) -> Iterator[None]:
    if address_file is None:
        yield
        return
    write_atomically(address_file, address)
    try:
        yield
    finally:
        address_file.unlink(missing_ok=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.hub", description="Serve a folder as a local Hub.")
    parser.add_argument("--root", type=Path, required=True, help="folder that demo.publish has written")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: any free port)")
    parser.add_argument(
        "--address-file", type=Path, help="file to write the address to; it exists while the Hub is being served"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
