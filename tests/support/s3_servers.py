"""A real S3 server for tests: MinIO if it is installed, otherwise moto."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.s3_server import CREDENTIALS, minio_program, s3_server

BUCKET = "faults"


@contextmanager
def run_s3_server(folder: Path) -> Iterator[tuple[int, str]]:
    """Run a server with an empty bucket, and put its credentials into this process's environment.

    :returns: its loopback port, and `MinIO` or `moto`.
    """
    os.environ.update(CREDENTIALS)
    if minio_program() is not None:
        (folder / BUCKET).mkdir(parents=True)
        with s3_server(folder) as port:
            yield port, "MinIO"
        return
    from tests.support.stores import S3Server

    server = S3Server()
    try:
        import boto3

        boto3.client("s3", endpoint_url=server.endpoint).create_bucket(Bucket=BUCKET)
        yield int(server.endpoint.rpartition(":")[2]), "moto"
    finally:
        server.stop()
