"""The injected faults, as the real client sees them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from demo.hub.faults import CutConnection, Refuse, WrongByte
from demo.hub.server import serve
from tests.support.hub_repositories import FILES, MODEL, WEIGHTS


def test_rate_limited_requests_succeed_later(root: Path, tmp_path: Path) -> None:
    reject = Refuse("*/resolve/main/config.json", times=1, retry_after_seconds=0)
    with serve(root, reject, Refuse("/api/models/*", times=1, retry_after_seconds=7)) as hub:
        api = HfApi(hub.url, token=False)
        with pytest.raises(HfHubHTTPError) as error:
            api.model_info(MODEL)
        assert error.value.response.status_code == 429
        assert error.value.response.headers["Retry-After"] == "7"
        path = api.hf_hub_download(MODEL, "config.json", cache_dir=tmp_path)
        assert Path(path).read_bytes() == FILES["config.json"]
        assert hub.requests.count(f"HEAD /{MODEL}/resolve/main/config.json") == 2


def test_a_broken_download_resumes_at_the_same_byte(root: Path, tmp_path: Path) -> None:
    with serve(root, CutConnection("*/model.safetensors", offset=100_000)) as hub:
        path = HfApi(hub.url, token=False).hf_hub_download(MODEL, "model.safetensors", cache_dir=tmp_path)
        assert Path(path).read_bytes() == WEIGHTS
        assert len([request for request in hub.requests if request.startswith("GET /_storage/")]) == 2


def test_a_broken_download_returns_the_bytes_before_the_break(root: Path) -> None:
    with serve(root, CutConnection("/_storage/*", offset=1000)) as hub:
        url = hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url)
        received: list[bytes] = []
        with (
            get_session().stream("GET", url, follow_redirects=True) as response,
            pytest.raises(httpx2.RemoteProtocolError),
        ):
            received.extend(response.iter_raw())
        assert b"".join(received) == WEIGHTS[:1000]


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=60000-80000"}])
def test_the_wrong_byte_fault_changes_one_byte_once(root: Path, headers: dict[str, str]) -> None:
    with serve(root, WrongByte("/_storage/*", offset=70_000)) as hub:
        url = hf_hub_url(MODEL, "model.safetensors", endpoint=hub.url)
        first, second = (get_session().get(url, headers=headers).content for _ in range(2))
        start, end = (60_000, 80_001) if headers else (0, len(WEIGHTS))
        assert second == WEIGHTS[start:end]
        assert [at + start for at, byte in enumerate(first) if byte != second[at]] == [70_000]


def test_the_client_gives_up_on_a_permanent_server_error(root: Path, tmp_path: Path) -> None:
    with serve(root, Refuse("/api/*", times=100, status=500, retry_after_seconds=None)) as hub:
        api = HfApi(hub.url, token=False)
        with pytest.raises(LocalEntryNotFoundError):
            api.snapshot_download(MODEL, cache_dir=tmp_path)
