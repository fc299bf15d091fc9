"""The scripts of `make setup`: their errors on an incomplete machine, and the source of torch."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

UV = REPOSITORY / ".venvs" / "uv" / "bin" / "uv"


@pytest.fixture
def path_folder(tmp_path: Path) -> Path:
    """A folder for PATH with a supported Python and git."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bash").symlink_to("/bin/bash")
    write_command(folder / "git", "exit 0")
    write_command(folder / "python3", "case $2 in *version*) echo 3.11 ;; esac")
    return folder


def write_command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def check_prerequisites(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", REPOSITORY / "scripts" / "check-prerequisites"],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_a_complete_machine_passes(path_folder: Path):
    result = check_prerequisites(path_folder)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["git", "python3"])
def test_a_missing_program_is_reported_with_the_command_that_installs_it(path_folder: Path, name: str):
    (path_folder / name).unlink()
    result = check_prerequisites(path_folder)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {name} is missing; install it with: sudo apt-get install {name}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.14"])
def test_an_unsupported_python_is_reported_with_its_version(path_folder: Path, version: str):
    write_command(path_folder / "python3", f"echo {version}")
    result = check_prerequisites(path_folder)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: python3 is Python {version}, but Python 3.10 to 3.13 is required")


def test_a_python_without_venv_is_reported_with_the_missing_package(path_folder: Path):
    write_command(path_folder / "python3", "case $2 in *version*) echo 3.11 ;; *) exit 1 ;; esac")
    result = check_prerequisites(path_folder)
    assert result.returncode == 1
    assert "sudo apt-get install python3.11-venv" in result.stderr


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one empty wheel of torch."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel("py3-none-any", folder)
    return folder


def wheel(tag: str, folder: Path) -> None:
    info = "torch-2.13.0+here.dist-info"
    with zipfile.ZipFile(folder / f"torch-2.13.0+here-{tag}.whl", "w") as archive:
        archive.writestr("torch.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+here\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


def install_torch(tmp_path: Path, **environment: str) -> tuple[str, str]:
    """Install torch offline into an empty environment.

    :returns: the installed version, and the errors.
    """
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", tmp_path / "venv"], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_FIND_LINKS")}
    result = subprocess.run(
        [REPOSITORY / "scripts" / "install-torch", python, REPOSITORY / "containers" / "train-cpu" / "torch.txt"],
        env={**kept, "UV": str(UV), "UV_OFFLINE": "1", "UV_NO_CACHE": "1", **environment},
        capture_output=True,
        text=True,
    )
    installed = list((tmp_path / "venv").glob("lib/python*/site-packages/torch-*.dist-info"))
    return "".join(path.name for path in installed), result.stderr


@pytest.mark.parametrize("name", ["PIP_FIND_LINKS", "UV_FIND_LINKS"])
def test_torch_is_installed_from_the_find_links_folder(tmp_path: Path, wheels: Path, name: str):
    assert install_torch(tmp_path, **{name: str(wheels)}) == ("torch-2.13.0+here.dist-info", "")


def test_pip_find_links_can_have_several_folders(tmp_path: Path, wheels: Path):
    installed, _ = install_torch(tmp_path, PIP_FIND_LINKS=f"{tmp_path} {wheels}")
    assert installed == "torch-2.13.0+here.dist-info"


def test_a_wheel_of_another_python_is_ignored(tmp_path: Path, wheels: Path):
    for other in wheels.iterdir():
        other.unlink()
    wheel("cp27-cp27m-win32", wheels)
    installed, result = install_torch(tmp_path, PIP_FIND_LINKS=str(wheels))
    assert installed == ""
    assert result.startswith("The CPU build of torch is not reachable")
