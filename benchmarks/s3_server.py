"""A real S3 server: MinIO."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.hub.server import listen, port_of

ACCESS_KEY, SECRET_KEY = "airsmith", "airsmith-secret"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_LONGEST_START_SECONDS = 30


def minio_program() -> str | None:
    """`MINIO` of the environment, else `minio` on the path, else None."""
    return os.environ.get("MINIO") or shutil.which("minio")


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """MinIO over a folder, on a loopback port, which is what comes back; each folder in it is a bucket."""
    program = minio_program()
    if program is None:
        sys.exit("This needs MinIO: put `minio` on the path, or name the program in MINIO.")
    with listen() as free:
        port = port_of(free)
    environment = {**os.environ, "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
    command = [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/minio/health/live", server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _LONGEST_START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)
