"""The preflight requests an image as a node does, and skips images that only the node can check."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.image_registry import DOCKER_HUB, parse_reference, refuse_missing_image

DIGEST = f"sha256:{'0' * 64}"
LOGIN = base64.b64encode(b"reader:secret").decode()


class Registry(BaseHTTPRequestHandler):
    """Serves `open/image` without credentials, `basic/image` and `token/image` to the reader."""

    def do_HEAD(self) -> None:
        host, given = self.headers["Host"], self.headers.get("Authorization", "")
        group = self.path.split("/")[2]
        if group == "basic" and given != f"Basic {LOGIN}":
            self.answer(401, {"WWW-Authenticate": 'Basic realm="registry"'})
        elif group == "token" and given != "Bearer granted":
            self.answer(401, {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="registry"'})
        elif self.path.endswith(f"/image/manifests/{DIGEST}"):
            self.answer(200 if "oci.image.index" in self.headers["Accept"] else 404)
        else:
            self.answer(404)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        is_reader = self.headers.get("Authorization") == f"Basic {LOGIN}"
        if query["scope"] != ["repository:token/image:pull"] or not is_reader:
            self.answer(403)
        else:
            self.answer(200, {}, json.dumps({"token": "granted"}).encode())

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pull_secret(folder: Path, registry: str, login: str = LOGIN) -> Path:
    file = folder / "registry" / ".dockerconfigjson"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"auths": {registry: {"auth": login}}}))
    return folder


@pytest.mark.parametrize("group", ["basic", "token"])
def test_the_pull_secret_authenticates_at_the_registry(registry: str, group: str, tmp_path: Path):
    refuse_missing_image(f"{registry}/{group}/image@{DIGEST}", pull_secret(tmp_path, registry))


def test_a_public_registry_needs_no_pull_secret(registry: str, tmp_path: Path):
    refuse_missing_image(f"{registry}/open/image@{DIGEST}", None)
    with pytest.raises(AirsmithError, match="has no image") as caught:
        refuse_missing_image(f"{registry}/open/absent@{DIGEST}", tmp_path)
    assert caught.value.kind is ErrorKind.IMAGE_PULL_FAILED


@pytest.mark.parametrize("group", ["basic", "token"])
def test_rejected_credentials_are_reported(registry: str, group: str, tmp_path: Path):
    wrong = base64.b64encode(b"reader:wrong").decode()
    with pytest.raises(AirsmithError, match="rejects the pull secret's credentials"):
        refuse_missing_image(f"{registry}/{group}/image@{DIGEST}", pull_secret(tmp_path, registry, wrong))


@pytest.mark.parametrize("reference", ["{registry}/basic/image@" + DIGEST, "127.0.0.1:9/open/image@" + DIGEST])
def test_an_image_that_only_the_node_can_pull_is_skipped(
    registry: str, reference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    refuse_missing_image(reference.format(registry=registry), tmp_path)
    assert "was not checked" in caplog.text


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("python", (DOCKER_HUB, "library/python", "latest")),
        ("vllm/vllm-openai:v0.11", (DOCKER_HUB, "vllm/vllm-openai", "v0.11")),
        ("docker.io/rocm/vllm:x", (DOCKER_HUB, "rocm/vllm", "x")),
        (f"ghcr.io/a/b/c:tag@{DIGEST}", ("ghcr.io", "a/b/c", DIGEST)),
        ("localhost:5000/a", ("localhost:5000", "a", "latest")),
    ],
)
def test_a_reference_is_parsed_as_container_runtimes_parse_it(reference: str, parts: tuple[str, str, str]):
    name = parse_reference(reference)
    assert (name.registry, name.repository, name.version) == parts


@pytest.mark.parametrize("reference", ["", "UPPER/case", "a b", "image@sha256:0", "ghcr.io/", "image:tag:tag"])
def test_an_invalid_reference_is_refused(reference: str):
    with pytest.raises(AirsmithError) as caught:
        parse_reference(reference)
    assert caught.value.kind is ErrorKind.INVALID_IMAGE_NAME
