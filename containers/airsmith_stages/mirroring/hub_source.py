"""The Hub as a source: a listing at one commit, and files by ranged GETs that go on where a connection broke."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType, hub_errors
from airsmith_stages.mirroring.source import SourceFile

log = logging.getLogger("airsmith")

CHUNK_BYTES = 1024 * 1024
MOST_TRIES = 6
"""Tries in a row that bring no byte."""
LONGEST_WAIT_SECONDS = 60.0
_RETRIED = (408, 429, 500, 502, 503, 504)


def hub_files(repo_type: RepoType, repo_id: str, commit: str) -> list[SourceFile]:
    """The files of a repository at a commit.

    :raises AirsmithError: `not_found`, `access_denied` or `hub_unavailable`, naming the repository and the remedy.
    """
    api = HfApi()
    client = httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60, connect=10), headers=_authorization())
    with hub_errors(repo_type, repo_id, commit, api.endpoint):
        tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
        entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    return [
        SourceFile(
            name=entry.path,
            size_bytes=entry.size,
            stream=_streaming(client, entry, repo_type, repo_id, commit, api.endpoint),
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_blob=None if entry.lfs else entry.blob_id,
        )
        for entry in entries
    ]


def _authorization() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _streaming(
    client: httpx.Client, entry: RepoFile, repo_type: RepoType, repo_id: str, commit: str, endpoint: str
) -> Callable[[], Iterator[bytes]]:
    url = hf_hub_url(repo_id, entry.path, repo_type=repo_type, revision=commit, endpoint=endpoint)
    return lambda: stream_url(client, url, entry.size)


def stream_url(client: httpx.Client, url: str, size_bytes: int) -> Iterator[bytes]:
    """The content behind a URL; a broken connection or a busy server is asked again for what is still missing.

    :raises AirsmithError: `hub_unavailable` after several tries without a byte; `access_denied`, `not_found`.
    """
    offset, tries = 0, 0
    while offset < size_bytes:
        wait_seconds = min(2.0**tries, LONGEST_WAIT_SECONDS)
        try:
            with client.stream(
                "GET", url, headers={"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
            ) as response:
                if response.status_code in _RETRIED:
                    wait_seconds = _retry_after(response, wait_seconds)
                    raise httpx.TransportError(f"HTTP {response.status_code}")
                _refuse_error(response, url)
                skip = offset if response.status_code == 200 else 0
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    dropped = min(skip, len(chunk))
                    skip -= dropped
                    if len(chunk) > dropped:
                        offset, tries = offset + len(chunk) - dropped, 0
                        yield chunk[dropped:]
        except httpx.TransportError as error:
            tries += 1
            if tries >= MOST_TRIES:
                raise _unavailable(url, str(error)) from error
            log.warning("%s: %s at byte %d; trying again in %.0f s", url, error, offset, wait_seconds)
            time.sleep(wait_seconds)


def _refuse_error(response: httpx.Response, url: str) -> None:
    if response.is_success:
        return
    if response.status_code in (401, 403):
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The Hub refuses {url} (HTTP {response.status_code}).",
            "Accept the repository's terms, and reference a token of that account as secrets.hf_token.",
        )
    if response.status_code == 404:
        raise AirsmithError(ErrorKind.NOT_FOUND, f"{url} does not exist any more.", "Start a new run.")
    raise _unavailable(url, f"HTTP {response.status_code}")


def _unavailable(url: str, cause: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.HUB_UNAVAILABLE, f"The Hub did not deliver {url}: {cause}.", "Try again later; check the network."
    )


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    """Seconds that the server asks to wait; a date instead of a number is treated as not said."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdigit() else otherwise
