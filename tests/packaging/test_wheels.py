"""The wheels that `make wheel` builds work in an environment that contains nothing else."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UV = REPOSITORY / ".venvs" / "uv" / "bin" / "uv"
PYTHON = REPOSITORY / ".venvs" / "uv" / "bin" / "python"
LOCK = REPOSITORY / "containers" / "airflow" / "requirements.lock"
RECIPE = REPOSITORY / "dags" / "recipes" / "ticket-triage.yaml"


@pytest.fixture(scope="module")
def dist() -> Path:
    """The folder with the wheels, built from the working tree."""
    subprocess.run(["make", "--silent", "wheel"], cwd=REPOSITORY, check=True)
    return REPOSITORY / "dist"


@pytest.fixture(scope="module")
def environment(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with `airsmith[kubernetes]` from the wheel, in the locked versions."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", PYTHON, folder], check=True)
    [wheel] = dist.glob("airsmith-*.whl")
    install = [UV, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "--constraints", LOCK]
    subprocess.run([*install, f"{wheel}[kubernetes]"], check=True)
    return folder


def airsmith(environment: Path, folder: Path, *arguments: str) -> str:
    """Run the installed command outside the repository; return its output."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AIRSMITH"))}
    finished = subprocess.run(
        [environment / "bin" / "airsmith", *arguments], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_recipe_check_accepts_a_recipe(environment: Path, tmp_path: Path):
    assert "ticket-triage" in airsmith(environment, tmp_path, "recipe", "check", str(RECIPE))


def test_plan_lists_the_stages(environment: Path, tmp_path: Path):
    plan = airsmith(environment, tmp_path, "plan", str(RECIPE))
    assert all(stage in plan for stage in ("mirror_model", "tokenize", "train", "merge", "evaluate"))


def test_the_wheel_contains_every_package_file(dist: Path):
    [wheel] = dist.glob("airsmith-*.whl")
    expected = {
        file.relative_to(REPOSITORY / "plugins").as_posix()
        for pattern in ("*.py", "*.yaml", "*.json", "py.typed")
        for file in (REPOSITORY / "plugins").rglob(pattern)
    }
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == expected


def test_the_stages_wheel_contains_its_modules_and_command(dist: Path):
    [wheel] = dist.glob("airsmith_stages-*.whl")
    archive = zipfile.ZipFile(wheel)
    containers = REPOSITORY / "containers"
    expected = {file.relative_to(containers).as_posix() for file in (containers / "airsmith_stages").rglob("*.py")}
    assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    [entry_points] = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "airsmith-stage = airsmith_stages.cli:run" in archive.read(entry_points).decode()


def test_the_build_leaves_nothing_in_the_source_folders():
    before = source_files()
    subprocess.run(["make", "--silent", "wheel"], cwd=REPOSITORY, check=True)
    assert source_files() == before


def source_files() -> set[Path]:
    folders = (REPOSITORY / "plugins", REPOSITORY / "containers")
    inside = {file for folder in folders for file in folder.rglob("*") if "__pycache__" not in file.parts}
    return {*inside, *REPOSITORY.glob("*"), *(REPOSITORY / ".airsmith").glob("wheel.*")}
