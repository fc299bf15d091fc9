"""The Hub as a source: a listing at one commit, and files by ranged GETs that go on where a connection broke."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from threading import Event

import httpx
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType, hub_errors
from airsmith_stages.mirroring.source import CopyStoppedError, SourceFile, Stream

log = logging.getLogger("airsmith")

CHUNK_BYTES = 1024 * 1024
MOST_TRIES = 6
"""Tries in a row that bring no byte."""
LONGEST_WAIT_SECONDS = 60.0
_RETRIED = (408, 429, 500, 502, 503, 504)
_TIMEOUT = httpx.Timeout(20, connect=10)
"""A silent connection is given up before a pod that was told to stop is killed."""


class _BusyError(Exception):
    """The server asks to be asked again.

    :param retry_after_seconds: when, where it says so.
    """

    def __init__(self, cause: str, retry_after_seconds: float | None) -> None:
        super().__init__(cause)
        self.retry_after_seconds = retry_after_seconds


def hub_files(repo_type: RepoType, repo_id: str, commit: str) -> list[SourceFile]:
    """The files of a repository at a commit.

    :raises AirsmithError: `not_found`, `access_denied` or `hub_unavailable`, naming the repository and the remedy.
    """
    api = HfApi()
    client = httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers=_authorization())
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
    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _streaming(
    client: httpx.Client, entry: RepoFile, repo_type: RepoType, repo_id: str, commit: str, endpoint: str
) -> Stream:
    url = hf_hub_url(repo_id, entry.path, repo_type=repo_type, revision=commit, endpoint=endpoint)
    return lambda stop: stream_url(client, url, entry.size, stop)


def stream_url(client: httpx.Client, url: str, size_bytes: int, stop: Event) -> Iterator[bytes]:
    """The content behind a URL; a broken connection or a busy server is asked again for what is still missing.

    :param stop: ends the wait between two tries.
    :raises AirsmithError: `hub_unavailable` after several tries without a byte; `access_denied`, `not_found`.
    :raises CopyStoppedError: where the event is set while it waits.
    """
    offset, tries = 0, 0
    while offset < size_bytes:
        asked_seconds, cause = None, "the answer ended early"
        try:
            for chunk in _content_from(client, url, offset):
                offset, tries = offset + len(chunk), 0
                yield chunk
        except _BusyError as busy:
            asked_seconds, cause = busy.retry_after_seconds, str(busy)
        except httpx.RequestError as error:
            cause = str(error) or type(error).__name__
        if offset < size_bytes:
            tries += 1
            if tries == MOST_TRIES:
                raise _unavailable(url, cause)
            wait_seconds = min(2.0 ** (tries - 1) if asked_seconds is None else asked_seconds, LONGEST_WAIT_SECONDS)
            log.warning("%s: %s at byte %d; trying again in %.0f s", url, cause, offset, wait_seconds)
            if stop.wait(wait_seconds):
                raise CopyStoppedError(url)


def _content_from(client: httpx.Client, url: str, offset: int) -> Iterator[bytes]:
    """One try at the bytes from an offset on; a server that ignores the range sends those before it as well."""
    with client.stream("GET", url, headers={"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}) as response:
        _refuse_error(response, url)
        skip = offset if response.status_code == 200 else 0
        for chunk in response.iter_bytes(CHUNK_BYTES):
            dropped = min(skip, len(chunk))
            skip -= dropped
            if len(chunk) > dropped:
                yield chunk[dropped:]


def _refuse_error(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if response.is_success:
        return
    if status in _RETRIED:
        asked = response.headers.get("Retry-After", "")
        # A date instead of a number counts as not said.
        raise _BusyError(f"HTTP {status}", float(asked) if asked.isdigit() else None)
    if status in (401, 403):
        raise AirsmithError(
            ErrorKind.ACCESS_DENIED,
            f"The Hub refuses {url} (HTTP {status}).",
            "Accept the repository's terms, and reference a token of that account as secrets.hf_token.",
        )
    if status == 404:
        raise AirsmithError(ErrorKind.NOT_FOUND, f"{url} does not exist any more.", "Start a new run.")
    raise _unavailable(url, f"HTTP {status}")


def _unavailable(url: str, cause: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.HUB_UNAVAILABLE, f"The Hub did not deliver {url}: {cause}.", "Try again later; check the network."
    )
