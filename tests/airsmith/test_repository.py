"""The repository names no machine and no package index, and its lock files are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY, committed_files

LOCKS = sorted((REPOSITORY / "containers").glob("*/*.lock"))

ABSOLUTE_HOME = re.compile(r"(?<![\w.$}~:/-])/(home|root|work|Users)/\w")
PACKAGE_INDEX = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs|--(extra-)?index-url|--find-links \S"
)


def test_no_file_names_a_home_folder_or_a_package_index():
    violations = []
    for path in map(REPOSITORY.joinpath, committed_files()):
        if path == Path(__file__):  # it has the patterns
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # an image
            continue
        violations += [
            f"{path.relative_to(REPOSITORY)}: {found.group()}"
            for pattern in (ABSOLUTE_HOME, PACKAGE_INDEX)
            for found in pattern.finditer(text)
        ]
    assert not violations


def pins(lock: Path) -> list[str]:
    """A lock's requirements, each on one line with its hashes."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock.parent.name}-{lock.stem}")
def test_a_lock_pins_hashes_and_only_cuda_locks_pin_torch_or_cuda(lock: Path):
    assert pins(lock)
    assert not [pin for pin in pins(lock) if not re.match(r"[\w.-]+==.* --hash=sha256:", pin)]
    if not lock.parent.name.endswith("-cuda"):
        assert not [pin for pin in pins(lock) if re.match(r"torch=|triton|nvidia|cuda", pin)]


@pytest.mark.parametrize("image", ["airflow", "train-cpu"])
def test_the_lock_of_an_image_is_part_of_the_tested_lock(image: str):
    folder = REPOSITORY / "containers" / image
    assert set(pins(folder / "requirements.lock")) < set(pins(folder / "requirements-dev.lock"))
