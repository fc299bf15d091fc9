"""Multipart uploads on S3: part sizes, bounded memory, and no remains after a failure."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.wrappers import Request, Response

from airsmith.artifacts.bucket import MIN_PART_BYTES, PARTS_IN_FLIGHT, part_bytes
from airsmith.artifacts.store import MEBIBYTE, Store
from airsmith.errors import AirsmithError, ErrorKind
from tests.support.s3_faults import (
    Faults,
    Respond,
    apply_and_return_500,
    discard_parts,
    error_response,
    record_requests,
)


@pytest.fixture
def store(s3_uri: str) -> Store:
    return Store.open(s3_uri)


def test_a_completed_upload_whose_response_is_lost_succeeds(store: Store, s3_server: Any) -> None:
    faults = s3_server.fault = Faults(
        lambda request: "uploadId" in request.args and request.method == "POST", apply_and_return_500, 1
    )
    assert store.upload("a", [b"1" * MEBIBYTE] * 17) == 17 * MEBIBYTE
    assert faults.times == 0
    assert store.read("a") == b"1" * MEBIBYTE * 17


def test_an_upload_that_the_store_aborted_is_not_reported_as_a_missing_object(store: Store, s3_server: Any) -> None:
    s3_server.fault = Faults(
        lambda request: "uploadId" in request.args and request.method == "POST",
        lambda real: error_response(404, "NoSuchUpload"),
    )
    with pytest.raises(AirsmithError, match="aborted the upload of a before it was complete") as failure:
        store.upload("a", [b"1" * MEBIBYTE] * 17)
    assert failure.value.kind is ErrorKind.STORE_UNAVAILABLE
    assert list(store.list("")) == []


def test_a_failed_upload_is_aborted(store: Store, s3_server: Any) -> None:
    def source() -> Iterator[bytes]:
        yield from [b"x" * MEBIBYTE] * 40
        raise ValueError("wrong digest")

    faults = s3_server.fault = record_requests()
    with pytest.raises(ValueError, match="wrong digest"):
        store.upload("a", source())
    created = [line for line in faults.requests if line.startswith("POST") and "uploads" in line]
    aborted = [line for line in faults.requests if line.startswith("DELETE") and "uploadId" in line]
    completed = [line for line in faults.requests if line.startswith("POST") and "uploadId" in line]
    assert (len(created), len(aborted), len(completed)) == (1, 1, 0)


def test_a_small_file_takes_one_request(store: Store, s3_server: Any) -> None:
    faults = s3_server.fault = record_requests()
    store.upload("a", [b"{}"], 2)
    assert len(faults.requests) == 1


@given(st.integers(0, 5 * 1024**4))
def test_a_file_fits_into_10000_parts_of_a_valid_size(size_bytes: int) -> None:
    part = part_bytes(size_bytes)
    assert part >= MIN_PART_BYTES
    assert part * 10_000 >= size_bytes
    assert part <= max(MIN_PART_BYTES, size_bytes / 8_999 + 1)


def test_50_gb_fit_if_the_size_is_unknown() -> None:
    assert part_bytes(None) * 10_000 > 50 * 1000**3
    assert part_bytes(None) == MIN_PART_BYTES


def test_an_upload_reads_only_a_few_parts_ahead(store: Store, s3_server: Any) -> None:
    pulled = acknowledged = furthest = 0

    def count_parts(request: Request, real: Respond) -> Response:
        nonlocal acknowledged
        if "partNumber" in request.args:
            acknowledged += int(request.headers["Content-Length"])
        return discard_parts(request, real)

    def source() -> Iterator[bytes]:
        nonlocal pulled, furthest
        for _ in range(200):
            pulled += MEBIBYTE
            furthest = max(furthest, pulled - acknowledged)
            yield b"x" * MEBIBYTE

    s3_server.fault = count_parts
    assert store.upload("a", source(), 200 * MEBIBYTE) == 200 * MEBIBYTE == acknowledged
    assert furthest <= (PARTS_IN_FLIGHT + 2) * MIN_PART_BYTES


def test_memory_does_not_grow_with_the_file_size(s3_uri: str, s3_server: Any) -> None:
    s3_server.fault = discard_parts
    program = """
        import resource, sys
        from airsmith.artifacts.store import MEBIBYTE, Store

        store = Store.open(sys.argv[1])
        peaks = []
        for mebibytes in (96, 384):
            store.upload("a", (bytes(MEBIBYTE) for _ in range(mebibytes)), mebibytes * MEBIBYTE)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        print(peaks[1] - peaks[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), s3_uri]
    grown_kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_kib < 48 * 1024, "an upload that is 288 MiB larger takes more than a few parts of memory"
