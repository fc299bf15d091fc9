"""The Hub as a source: the files of a repository at one commit, downloaded by concurrent range requests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from airsmith.hub import RepoType, hub_errors
from airsmith_stages.mirroring.http_file import HttpFile
from airsmith_stages.mirroring.limiter import MAX_CONCURRENT_REQUESTS, RequestLimiter
from airsmith_stages.mirroring.source_file import SourceFile, Stream
from airsmith_stages.mirroring.xet import is_xet_enabled, xet_streaming

_TIMEOUT = httpx.Timeout(20, connect=10)
"""Shorter than a pod's termination grace period, so that a silent connection does not outlast it."""


def hub_files(repo_type: RepoType, repo_id: str, commit: str) -> list[SourceFile]:
    """List the files of a repository at a commit.

    :raises AirsmithError: `not_found`, `access_denied` or `hub_unavailable`, naming the repository and the remedy.
    """
    api = HfApi()
    with hub_errors(repo_type, repo_id, commit, api.endpoint):
        tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
        entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    repository = (repo_type, repo_id, commit, api.endpoint, get_token())
    over_http = _http_streaming(*repository)
    by_xet = xet_streaming(*repository) if is_xet_enabled() and any(entry.xet_hash for entry in entries) else over_http
    return [
        SourceFile(
            name=entry.path,
            size_bytes=entry.size,
            stream=(by_xet if entry.xet_hash else over_http)(entry),
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_blob=None if entry.lfs else entry.blob_id,
        )
        for entry in entries
    ]


def _http_streaming(
    repo_type: RepoType, repo_id: str, commit: str, endpoint: str, token: str | None
) -> Callable[[RepoFile], Stream]:
    """A function that opens a file's stream; all files share connections, threads and a request limiter."""
    limits = httpx.Limits(max_connections=MAX_CONCURRENT_REQUESTS, max_keepalive_connections=MAX_CONCURRENT_REQUESTS)
    client = httpx.Client(timeout=_TIMEOUT, limits=limits)
    pool = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="download")
    limiter = RequestLimiter()
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def open_stream(entry: RepoFile) -> Stream:
        url = hf_hub_url(repo_id, entry.path, repo_type=repo_type, revision=commit, endpoint=endpoint)
        return lambda stop: HttpFile(client, url, entry.size, limiter, headers).stream(pool, stop)

    return open_stream
