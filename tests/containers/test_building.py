"""`make images`: the build commands, how their output is read, and that a failure leaves the settings unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from airsmith.errors import AirsmithError
from scripts.images.__main__ import REPOSITORY
from scripts.images.builders import Buildah, CustomCommand, Docker, Layer, builder_of
from scripts.images.sizes import report
from scripts.images.toolchain import toolchain_of


def make_images(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = [sys.executable, "-m", "scripts.images", "cpu", "--registry", "registry/airsmith/", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("command", "builder"),
    [
        ("docker", Docker),
        ("docker buildx build", Docker),
        ("buildah", Buildah),
        ("../cluster build", CustomCommand),
    ],
)
def test_the_build_option_selects_the_builder(command: str, builder: type):
    assert type(builder_of(command)) is builder


def test_the_error_names_what_to_install_if_no_builder_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(AirsmithError, match="neither Docker with buildx nor buildah"):
        builder_of("")


def test_a_failed_build_shows_its_output_and_keeps_the_settings(tmp_path: Path):
    settings = tmp_path / "airsmith.yaml"
    done = make_images("--settings", str(settings), "--build", "sh -c 'echo no space; exit 3'")
    assert done.returncode == 1
    assert "no space" in done.stdout
    assert "ended with exit status 3" in done.stderr
    assert not settings.exists()


def test_a_builder_that_prints_no_digest_is_rejected(tmp_path: Path):
    done = make_images("--settings", str(tmp_path / "airsmith.yaml"), "--build", "echo done")
    assert done.returncode == 1
    assert "which is no image with its digest" in done.stderr


def test_the_builder_receives_name_context_and_commit():
    done = make_images("--settings", "unused", "--build", "echo", "--build-arg", "BASE_IMAGE=here/python:3.12")
    name, context, *options = done.stdout.splitlines()[1].split()
    assert name.startswith("registry/airsmith/cpu:")
    assert Path(context) == REPOSITORY
    assert options[:2] == ["--file", str(REPOSITORY / "containers/cpu/Dockerfile")]
    assert options[2:] == ["--build-arg", options[3], "--build-arg", "BASE_IMAGE=here/python:3.12"]
    commit = options[3].removeprefix("COMMIT=")
    assert name.rpartition(":")[2] == commit.replace(commit[12:40], "", 1)


def test_a_stand_in_replaces_the_dockerfile_of_an_image():
    stand_in = "cpu=containers/train-cpu/Dockerfile"
    done = make_images("--settings", "unused", "--build", "echo", "--stand-in", stand_in)
    assert done.stdout.splitlines()[1].split()[2:4] == ["--file", str(REPOSITORY / "containers/train-cpu/Dockerfile")]


@pytest.mark.parametrize("stand_in", ["cpu=containers/nowhere/Dockerfile", "unknown=containers/cpu/Dockerfile", "cpu"])
def test_an_invalid_stand_in_is_rejected(stand_in: str):
    done = make_images("--settings", "unused", "--build", "echo", "--stand-in", stand_in)
    assert done.returncode == 2
    assert stand_in in done.stderr


def test_the_toolchain_has_the_versions_that_python_imports(tmp_path: Path):
    """A virtual environment with system packages precedes those of its base image."""
    for folder, name, version in [
        ("own", "torch", "2.13.0+cpu"),
        ("base", "torch", "2.8.0"),
        ("base", "neuronx_cc", "2.21"),
    ]:
        metadata = tmp_path / folder / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    class LocalPython(Buildah):
        def run(self, name: str, command: Sequence[str]) -> str:
            path = os.pathsep.join([str(tmp_path / "own"), str(tmp_path / "base")])
            done = subprocess.run(
                [sys.executable, "-S", *command[1:]],
                env={"PYTHONPATH": path},
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout

    assert toolchain_of(LocalPython(), "image") == {"torch": "2.13.0", "neuronx-cc": "2.21"}


def test_the_report_names_the_largest_layers_first():
    layers = [
        Layer(150_000_000, "/bin/sh"),
        Layer(1_600_000_000, "|2 ONE=a TWO=b c /bin/sh -c python -m  venv ."),
        Layer(4, "left out"),
        Layer(5_000_000, "/bin/sh -c #(nop) COPY dir:12 in /opt"),
        Layer(2_000_000, "RUN --mount=type=bind,from=tools uv sync # buildkit"),
    ]
    assert report("train-cpu", layers).splitlines() == [
        "train-cpu: 1,757 MB in 5 layers; the largest:",
        "  1,600 MB  python -m venv .",
        "    150 MB  the base image",
        "      5 MB  COPY dir:12 in /opt",
    ]
    assert report("cpu", layers[-1:]).endswith("2 MB  uv sync")


FAKE_DOCKER = """#!/bin/sh
echo "$@" >> "$DOCKER_CALLS"
case "$1 $2" in
  "image inspect") echo '["other/cpu@sha256:00", "registry/airsmith/cpu@sha256:12"]' ;;
  "history --no-trunc") echo '{"Size": "5", "CreatedBy": "COPY"}'; echo '{"Size": "0", "CreatedBy": "ENV"}'
    echo '{"Size": "7", "CreatedBy": "base"}' ;;
  "run --rm") echo '{"tokenizers": "0.23.3", "torch": "2.13.0+cpu", "pip": "1"}' ;;
esac
"""


def test_docker_is_called_and_its_output_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a fake `docker`, because Docker is not available everywhere."""
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    calls = tmp_path / "calls"
    monkeypatch.setenv("DOCKER_CALLS", str(calls))
    settings = tmp_path / "airsmith.yaml"
    done = make_images("--settings", str(settings), "--build", "docker", path=docker.parent)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(settings.read_text())["kubernetes"]["images"] == {
        "cpu": {
            "reference": "registry/airsmith/cpu@sha256:12",
            "toolchain": {"tokenizers": "0.23.3", "torch": "2.13.0"},
        }
    }
    assert "0 MB in 2 layers" in done.stdout
    assert calls.read_text().startswith("buildx build --load --provenance=false --tag registry/airsmith/cpu:")
    assert "\npush registry/airsmith/cpu:" in calls.read_text()


@pytest.fixture
def scratch_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if not shutil.which("buildah") or os.geteuid():
        pytest.skip("requires buildah and root")
    storage = tmp_path / "storage.conf"  # buildah fails if another process removes images from its storage
    folders = f'graphroot = "{tmp_path / "images"}"\nrunroot = "{tmp_path / "run"}"\n'
    storage.write_text(f'[storage]\ndriver = "vfs"\n{folders}')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY one /one\nCOPY two /two\n")
    (tmp_path / "one").write_bytes(bytes(10_000))
    (tmp_path / "two").write_bytes(bytes(50_000))
    name = "localhost/airsmith-test-layers:1"
    subprocess.run(["buildah", "build", "--layers", "--tag", name, str(tmp_path)], check=True, capture_output=True)
    return name


def test_buildah_reports_the_size_and_command_of_each_layer(scratch_image: str):
    one, two = Buildah().layers(scratch_image)
    assert 10_000 < one.size_bytes < 20_000 < 50_000 < two.size_bytes
    assert "/one" in one.made_by
    assert "/two" in two.made_by
