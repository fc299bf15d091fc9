"""The repository itself: nothing in it belongs to one machine, and its locks hold on all."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCKS = sorted((REPOSITORY / "containers").glob("*/*.lock"))

HOME_OF_SOMEBODY = re.compile(r"(?<![\w.$}~:/-])/(home|root|work|Users)/\w")
PACKAGE_INDEX = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs|--(extra-)?index-url|--find-links \S"
)


def committed_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return [path for name in listed.split("\0") if name and (path := REPOSITORY / name).is_file()]


def test_no_file_names_a_folder_of_one_machine_or_a_package_index():
    against = []
    for path in committed_files():
        if path == Path(__file__):  # which holds the patterns
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        against += [
            f"{path.relative_to(REPOSITORY)}: {found.group()}"
            for pattern in (HOME_OF_SOMEBODY, PACKAGE_INDEX)
            for found in pattern.finditer(text)
        ]
    assert not against


def pins(lock: Path) -> list[str]:
    """A lock's requirements, each on one line with its hashes."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock.parent.name}-{lock.stem}")
def test_a_lock_pins_every_package_with_hashes_and_torch_or_cuda_for_cuda_alone(lock: Path):
    assert pins(lock)
    assert not [pin for pin in pins(lock) if not re.match(r"[\w.-]+==.* --hash=sha256:", pin)]
    if not lock.parent.name.endswith("-cuda"):
        assert not [pin for pin in pins(lock) if re.match(r"torch=|triton|nvidia|cuda", pin)]


@pytest.mark.parametrize("image", ["airflow", "train-cpu"])
def test_an_image_gets_what_was_tested(image: str):
    folder = REPOSITORY / "containers" / image
    assert set(pins(folder / "requirements.lock")) < set(pins(folder / "requirements-dev.lock"))
