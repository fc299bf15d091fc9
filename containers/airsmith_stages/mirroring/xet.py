"""Download files of the Hub's Xet storage with hf_xet if `AIRSMITH_HUB_XET` is `1`, within a share of the memory.

By default hf_xet buffers gigabytes. Without hf_xet, the same files are downloaded over the Hub's HTTP bridge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

from huggingface_hub.hf_api import RepoFile

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.hub import RepoType
from airsmith_stages.mirroring.source_file import CopyStoppedError, Stream

XET_VARIABLE = "AIRSMITH_HUB_XET"
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SHARE = 4
"""One in so many bytes of memory is for hf_xet's buffers; the rest is for the process and its uploads."""
_SMALLEST_BUFFER_BYTES = 64 * 2**20


def is_xet_enabled() -> bool:
    """Whether to download files of Xet storage with hf_xet."""
    return os.environ.get(XET_VARIABLE) == "1"


def xet_streaming(
    repo_type: RepoType, repo_id: str, commit: str, endpoint: str, token: str | None
) -> Callable[[RepoFile], Stream]:
    """A function that opens the stream of a file in Xet storage; all streams share one session with bounded buffers."""
    from hf_xet import XetConfig, XetFileInfo, XetSession  # type: ignore[import-untyped]

    session = XetSession(XetConfig().with_config(buffer_limits(memory_bytes())))
    group = session.new_download_stream_group(
        token_refresh_url=f"{endpoint}/api/{repo_type}s/{repo_id}/xet-read-token/{commit}",
        token_refresh_headers={"Authorization": f"Bearer {token}"} if token else {},
    )

    def open_stream(entry: RepoFile) -> Stream:
        def stream(stop: Event) -> Iterator[bytes]:
            try:
                for chunk in group.download_stream(XetFileInfo(entry.xet_hash, entry.size)):
                    if stop.is_set():
                        raise CopyStoppedError(entry.path)
                    yield chunk
            except (RuntimeError, OSError) as failure:
                raise AirsmithError(
                    ErrorKind.HUB_UNAVAILABLE,
                    f"Xet storage did not deliver {entry.path} of {repo_id}: {failure}.",
                    f"Try again later, or unset {XET_VARIABLE} to download over HTTP.",
                ) from failure

        return stream

    return open_stream


def buffer_limits(memory: int) -> dict[str, int]:
    """hf_xet's buffer settings for a process with `memory` bytes."""
    total = max(_SMALLEST_BUFFER_BYTES, memory // _SHARE)
    return {
        "reconstruction.download_buffer_limit": total,
        "reconstruction.download_buffer_size": total // 2,
        "reconstruction.download_buffer_perfile_size": total // 4,
        "reconstruction.min_prefetch_buffer": total // 4,
        "reconstruction.min_reconstruction_fetch_size": total // 8,
        "reconstruction.max_reconstruction_fetch_size": total // 4,
    }


def memory_bytes(limit: Path = _CGROUP_LIMIT) -> int:
    """Memory available to this process: its cgroup's limit, else the machine's memory."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = limit.read_text().strip() if limit.exists() else "max"
    return physical if text == "max" else min(int(text), physical)
