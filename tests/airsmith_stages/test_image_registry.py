"""An image is asked for as a node would ask, and what cannot be known from here is left to the node."""

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
from airsmith_stages.image_registry import DOCKER_HUB, refuse_missing_image, split_reference

DIGEST = f"sha256:{'0' * 64}"
LOGIN = base64.b64encode(b"reader:secret").decode()


class Registry(BaseHTTPRequestHandler):
    """Has `open/image` for everybody, `basic/image` and `token/image` for the reader."""

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
        asked = parse_qs(urlsplit(self.path).query)
        is_reader = self.headers.get("Authorization") == f"Basic {LOGIN}"
        if asked["scope"] != ["repository:token/image:pull"] or not is_reader:
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
        """Say nothing."""


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
def test_the_pull_secret_opens_the_registry(registry: str, group: str, tmp_path: Path):
    refuse_missing_image(f"{registry}/{group}/image@{DIGEST}", pull_secret(tmp_path, registry))


def test_an_open_registry_needs_none(registry: str, tmp_path: Path):
    refuse_missing_image(f"{registry}/open/image@{DIGEST}", None)
    with pytest.raises(AirsmithError, match="has no image") as caught:
        refuse_missing_image(f"{registry}/open/absent@{DIGEST}", tmp_path)
    assert caught.value.kind is ErrorKind.IMAGE_PULL_FAILED


@pytest.mark.parametrize("group", ["basic", "token"])
def test_credentials_that_are_refused_are_told(registry: str, group: str, tmp_path: Path):
    wrong = base64.b64encode(b"reader:wrong").decode()
    with pytest.raises(AirsmithError, match="refuses the pull secret's credentials"):
        refuse_missing_image(f"{registry}/{group}/image@{DIGEST}", pull_secret(tmp_path, registry, wrong))


@pytest.mark.parametrize("reference", ["{registry}/basic/image@" + DIGEST, "127.0.0.1:9/open/image@" + DIGEST])
def test_what_only_the_node_can_know_is_left_to_it(
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
def test_a_reference_is_read_as_container_runtimes_do(reference: str, parts: tuple[str, str, str]):
    name = split_reference(reference)
    assert (name.registry, name.repository, name.version) == parts


@pytest.mark.parametrize("reference", ["", "UPPER/case", "a b", "image@sha256:0", "ghcr.io/", "image:tag:tag"])
def test_a_reference_that_is_none_is_refused(reference: str):
    with pytest.raises(AirsmithError) as caught:
        split_reference(reference)
    assert caught.value.kind is ErrorKind.INVALID_IMAGE_NAME
