"""What `make setup` says to a newcomer whose machine lacks something, and where it takes torch from."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UV = REPOSITORY / ".venvs" / "uv" / "bin" / "uv"


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A PATH with a fitting Python and git, of which a test takes something away."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bash").symlink_to("/bin/bash")
    command(folder / "git", "exit 0")
    command(folder / "python3", "case $2 in *version*) echo 3.11 ;; esac")
    return folder


def command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def check_prerequisites(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", REPOSITORY / "scripts" / "check-prerequisites"],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
    )


def test_a_fitting_machine_lacks_nothing(newcomer: Path):
    checked = check_prerequisites(newcomer)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["git", "python3"])
def test_a_missing_command_is_named_with_the_command_that_installs_it(newcomer: Path, name: str):
    (newcomer / name).unlink()
    checked = check_prerequisites(newcomer)
    assert checked.returncode == 1
    assert checked.stderr.startswith(f"error: {name} is missing; install it with: sudo apt-get install {name}")
    assert checked.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.14"])
def test_a_python_that_does_not_fit_is_named_with_its_version(newcomer: Path, version: str):
    command(newcomer / "python3", f"echo {version}")
    checked = check_prerequisites(newcomer)
    assert checked.returncode == 1
    assert checked.stderr.startswith(f"error: python3 is Python {version}, but Python 3.10 to 3.13 is required")


def test_a_python_without_venv_is_named_with_the_package_that_brings_it(newcomer: Path):
    command(newcomer / "python3", "case $2 in *version*) echo 3.11 ;; *) exit 1 ;; esac")
    checked = check_prerequisites(newcomer)
    assert checked.returncode == 1
    assert "sudo apt-get install python3.11-venv" in checked.stderr


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one wheel, the size of nothing, that says it is torch."""
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
    """The version that is installed offline into an empty environment, and what was said."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", tmp_path / "venv"], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_FIND_LINKS")}
    told = subprocess.run(
        [REPOSITORY / "scripts" / "install-torch", python, REPOSITORY / "containers" / "train-cpu" / "torch.txt"],
        env={**kept, "UV": str(UV), "UV_OFFLINE": "1", "UV_NO_CACHE": "1", **environment},
        capture_output=True,
        text=True,
    )
    installed = list((tmp_path / "venv").glob("lib/python*/site-packages/torch-*.dist-info"))
    return "".join(path.name for path in installed), told.stderr


@pytest.mark.parametrize("name", ["PIP_FIND_LINKS", "UV_FIND_LINKS"])
def test_torch_comes_from_the_environments_own_wheels(tmp_path: Path, wheels: Path, name: str):
    assert install_torch(tmp_path, **{name: str(wheels)}) == ("torch-2.13.0+here.dist-info", "")


def test_pips_folders_of_wheels_may_be_several(tmp_path: Path, wheels: Path):
    installed, _ = install_torch(tmp_path, PIP_FIND_LINKS=f"{tmp_path} {wheels}")
    assert installed == "torch-2.13.0+here.dist-info"


def test_a_wheel_of_another_python_is_left_and_the_index_is_asked(tmp_path: Path, wheels: Path):
    for unfit in wheels.iterdir():
        unfit.unlink()
    wheel("cp27-cp27m-win32", wheels)
    installed, told = install_torch(tmp_path, PIP_FIND_LINKS=str(wheels))
    assert installed == ""
    assert told.startswith("The CPU build of torch is not reachable")
