"""Check that a container registry serves an image, without pulling it (OCI distribution spec, version 2)."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

DOCKER_HUB = "registry-1.docker.io"
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TIMEOUT = httpx.Timeout(10)
_REFERENCE = re.compile(
    r"(?P<repository>[a-z0-9]+([._/-]+[a-z0-9]+)*)(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class ImageName:
    """A parsed image reference."""

    registry: str
    repository: str
    version: str

    @property
    def url(self) -> str:
        """URL of its manifest; plain HTTP only for localhost, as in container runtimes."""
        scheme = "http" if self.registry.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
        return f"{scheme}://{self.registry}/v2/{self.repository}/manifests/{self.version}"


def refuse_missing_image(reference: str, pull_secrets: Path | None) -> None:
    """Request an image's manifest from its registry; inconclusive responses only log a warning.

    :param pull_secrets: folder with the registries' credentials, one subfolder per Secret.
    :raises AirsmithError: `invalid_image_name`, or `image_pull_failed` if the registry has no such image or rejects the
        credentials.
    """
    name = parse_reference(reference)
    credentials = _credentials(name.registry, pull_secrets)
    try:
        status = _manifest_status(name, credentials)
    except httpx.HTTPError as error:
        log.warning(
            "Image %s was not checked: %s is not reachable from this pod (%s).", reference, name.registry, error
        )
        return
    if status == 404:
        raise AirsmithError(
            ErrorKind.IMAGE_PULL_FAILED,
            f"The registry {name.registry} has no image {reference}.",
            "Push it with `make images`, or correct kubernetes.images in the settings.",
        )
    if status in (401, 403) and credentials is not None:
        raise AirsmithError(
            ErrorKind.IMAGE_PULL_FAILED,
            f"The registry {name.registry} rejects the pull secret's credentials for {reference} (HTTP {status}).",
            "Renew the Secret that kubernetes.image_pull_secrets names.",
        )
    if status != 200:
        log.warning("Image %s was not checked: %s returned HTTP %d to this pod.", reference, name.registry, status)


def parse_reference(reference: str) -> ImageName:
    """Parse a reference as container runtimes do.

    :raises AirsmithError: `invalid_image_name`.
    """
    host, slash, rest = reference.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    registry, path = (host, rest) if is_host else (DOCKER_HUB, reference if slash else f"library/{reference}")
    found = _REFERENCE.fullmatch(path)
    if found is None:
        raise AirsmithError(
            ErrorKind.INVALID_IMAGE_NAME,
            f"{reference!r} is not a valid image name.",
            "Correct kubernetes.images in the settings; `make images` writes it.",
        )
    if registry == "docker.io":
        registry = DOCKER_HUB
    return ImageName(registry, found["repository"], found["digest"] or found["tag"] or "latest")


def _manifest_status(name: ImageName, credentials: str | None) -> int:
    """HTTP status of the manifest request, after the registry's token authentication if required."""
    accepted = {"Accept": ", ".join(MANIFEST_TYPES)}
    basic = {"Authorization": f"Basic {credentials}"} if credentials else {}
    with httpx.Client(timeout=_TIMEOUT, follow_redirects=True) as client:
        answer = client.head(name.url, headers=accepted)
        if answer.status_code != 401:
            return answer.status_code
        scheme, _, challenge = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if scheme.lower() == "bearer":
            asked = dict(_CHALLENGE.findall(challenge))
            wanted = {"service": asked.get("service", ""), "scope": f"repository:{name.repository}:pull"}
            given = client.get(asked.get("realm", ""), params=wanted, headers=basic)
            if given.status_code != 200:
                return given.status_code
            token = given.json().get("token") or given.json().get("access_token")
            return client.head(name.url, headers={**accepted, "Authorization": f"Bearer {token}"}).status_code
        return client.head(name.url, headers={**accepted, **basic}).status_code if basic else 401


def _credentials(registry: str, pull_secrets: Path | None) -> str | None:
    """The credentials for a registry in the format of a Docker config: base64 of `user:password`."""
    for logins in _logins(pull_secrets):
        for host, login in logins.items():
            bare = host.removeprefix("https://").partition("/")[0]
            if bare == registry or (registry == DOCKER_HUB and bare in ("index.docker.io", "docker.io")):
                plain = f"{login.get('username', '')}:{login.get('password', '')}"
                return str(login.get("auth") or base64.b64encode(plain.encode()).decode())
    return None


def _logins(pull_secrets: Path | None) -> Iterator[dict[str, dict[str, str]]]:
    for file in sorted(pull_secrets.glob("*/.dockerconfigjson")) if pull_secrets else ():
        try:
            yield dict(json.loads(file.read_bytes()).get("auths", {}))
        except (OSError, ValueError) as error:
            log.warning("Cannot read the pull secret %s: %s", file.parent.name, error)
