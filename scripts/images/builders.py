"""Builders of images: Docker, buildah, or a custom command around buildah."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airsmith.errors import AirsmithError, ErrorKind


@dataclass(frozen=True)
class Layer:
    """One layer of an image.

    :param size_bytes: uncompressed.
    :param made_by: the instruction that created it, if the builder reports it.
    """

    size_bytes: int
    made_by: str


class Builder(Protocol):
    """Builds, pushes and inspects images."""

    def build(self, name: str, arguments: Sequence[str]) -> str:
        """Build and push an image.

        :param name: registry, path and tag.
        :param arguments: context and options that both `docker build` and `buildah build` support.
        :returns: the name with the digest.
        :raises AirsmithError: `internal` if the command fails; this holds for all methods.
        """

    def run(self, name: str, command: Sequence[str]) -> str:
        """What a command in the image prints."""

    def layers(self, name: str) -> list[Layer]:
        """The image's layers, the base's first."""


class Docker:
    """Docker with buildx."""

    def build(self, name: str, arguments: Sequence[str]) -> str:
        """Build into Docker's store, which allows inspection, and push from there.

        Provenance contains the time: with it, no two builds have the same digest.
        """
        _run(["docker", "buildx", "build", "--load", "--provenance=false", "--tag", name, *arguments])
        _run(["docker", "push", name])
        pushed: list[str] = json.loads(
            _output_of(["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", name])
        )
        return next(reference for reference in pushed if reference.startswith(f"{_without_tag(name)}@"))

    def run(self, name: str, command: Sequence[str]) -> str:
        """What a command in the image prints."""
        return _output_of(["docker", "run", "--rm", "--read-only", "--network", "none", name, *command])

    def layers(self, name: str) -> list[Layer]:
        """The image's layers, the base's first."""
        history = _output_of(["docker", "history", "--no-trunc", "--human=false", "--format", "{{json .}}", name])
        steps = [json.loads(line) for line in reversed(history.splitlines())]
        return [Layer(int(step["Size"]), step["CreatedBy"]) for step in steps if int(step["Size"])]


class Buildah:
    """buildah, which needs no daemon."""

    def build(self, name: str, arguments: Sequence[str]) -> str:
        """Build and push. A registry on this machine is accessed without TLS."""
        _run(["buildah", "build", "--layers", "--tag", name, *arguments])
        plain = ["--tls-verify=false"] if name.startswith(("localhost", "127.0.0.1")) else []
        with tempfile.TemporaryDirectory() as folder:
            digest = Path(folder) / "digest"
            _run(["buildah", "push", *plain, "--digestfile", str(digest), name, f"docker://{name}"])
            return f"{_without_tag(name)}@{digest.read_text().strip()}"

    def run(self, name: str, command: Sequence[str]) -> str:
        """What a command in the image prints."""
        container = _output_of(["buildah", "from", "--pull-never", name]).strip()
        try:
            return _output_of(["buildah", "run", "--isolation", "chroot", container, "--", *command])
        finally:
            _output_of(["buildah", "rm", container])

    def layers(self, name: str) -> list[Layer]:
        """The image's layers, the base's first."""
        image = json.loads(_output_of(["buildah", "inspect", "--type", "image", name]))
        sizes = [layer["size"] for layer in json.loads(image["Manifest"])["layers"]]
        steps = [step.get("created_by", "") for step in image["OCIv1"]["history"] if not step.get("empty_layer")]
        return [Layer(size, made_by) for size, made_by in zip(sizes, steps, strict=True)]


class CustomCommand(Buildah):
    """A command `COMMAND NAME CONTEXT OPTION…` around buildah that also pushes and prints name and digest last."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def build(self, name: str, arguments: Sequence[str]) -> str:
        """Run the command."""
        reference = _run([*self._command, name, *arguments]).split()[-1]
        if "@sha256:" not in reference:
            raise AirsmithError(
                ErrorKind.INTERNAL,
                f"{shlex.join(self._command)} printed {reference!r} last, which is no image with its digest.",
                "Let it print the pushed image's name@sha256:… as its last word.",
            )
        return reference


def builder_of(command: str) -> Builder:
    """The builder for `make images BUILD=…`; the first installed one if `command` is empty.

    :raises AirsmithError: `not_found` if no builder is installed.
    """
    if command in ("docker", "docker buildx build"):
        return Docker()
    if command in ("buildah", "buildah build"):
        return Buildah()
    if command:
        return CustomCommand(command)
    if shutil.which("docker") and not subprocess.run(["docker", "buildx", "ls"], capture_output=True).returncode:
        return Docker()
    if shutil.which("buildah"):
        return Buildah()
    raise AirsmithError(
        ErrorKind.NOT_FOUND,
        "Nothing that builds images is installed here: neither Docker with buildx nor buildah.",
        "Install one of them, or name what builds: make images BUILD=…",
    )


def _without_tag(name: str) -> str:
    return name.rpartition(":")[0]


def _run(command: Sequence[str]) -> str:
    """Run a command, print its output line by line, and return its stdout."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise AirsmithError(
            ErrorKind.INTERNAL,
            f"`{shlex.join(command)}` ended with exit status {process.returncode}.",
            "Its last lines above say why.",
        )
    return "".join(lines)


def _output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AirsmithError(
            ErrorKind.INTERNAL,
            f"`{shlex.join(command)}` ended with exit status {done.returncode}.",
            done.stderr.strip()[-2000:] or "It says nothing of the cause.",
        )
    return done.stdout
