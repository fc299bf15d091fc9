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
_START_TIMEOUT_SECONDS = 30


def minio_program() -> str | None:
    """The program in the variable MINIO, or `minio` on the path; None if neither exists."""
    return os.environ.get("MINIO") or shutil.which("minio")


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Run MinIO over a folder, in which each subfolder is a bucket.

    :returns: its loopback port.
    """
    program = minio_program()
    if program is None:
        sys.exit("MinIO is required: put `minio` on the path, or set MINIO to the program.")
    with listen() as free:
        port = port_of(free)
    environment = {**os.environ, "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
    command = [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/minio/health/live", server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
