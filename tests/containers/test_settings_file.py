"""`make images` updates a settings file that people edit by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError
from airsmith.settings import Image, load_settings
from scripts.images.settings_file import with_image, write_images

CPU = {"reference": "registry/airsmith/cpu@sha256:12", "toolchain": {"tokenizers": "0.23", "torch": "2.13.0"}}

WRITTEN_BY_HAND = """\
# The team.
team: triage  # of support

kubernetes:  # the test cluster
  # Namespace of the pods.
  namespace: airsmith

  images:
    # AMD's image.
    vllm-rocm:
      reference: amd/vllm@sha256:ab  # pinned
    # Without torch.
    cpu:  # small
      reference: registry/airsmith/cpu@sha256:00
      toolchain:
        tokenizers: 0.22.1

    # With torch.
    train-cpu: {reference: "registry/train-cpu@sha256:00"}

  # Below the images.
  environment:
    AWS_REGION: eu-central-1
# The end.
backends: {cpu: {retries: 3}}
"""


def images(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)["kubernetes"]["images"]


@pytest.mark.parametrize("name", ["cpu", "train-cpu", "vllm-rocm", "airflow"])
def test_only_the_image_changes(name: str):
    written = with_image(WRITTEN_BY_HAND, name, CPU)
    expected = yaml.safe_load(WRITTEN_BY_HAND)
    expected["kubernetes"]["images"][name] = CPU
    assert yaml.safe_load(written) == expected
    comments = re.findall("#.*", WRITTEN_BY_HAND)
    if name == "vllm-rocm":  # its value contains a comment
        comments.remove("# pinned")
    assert re.findall("#.*", written) == comments


def test_the_lines_around_an_image_stay_unchanged():
    written = with_image(WRITTEN_BY_HAND, "cpu", CPU)
    old = "      reference: registry/airsmith/cpu@sha256:00\n      toolchain:\n        tokenizers: 0.22.1\n"
    new = """\
      reference: registry/airsmith/cpu@sha256:12
      toolchain:
        tokenizers: '0.23'
        torch: 2.13.0
"""
    assert written == WRITTEN_BY_HAND.replace(old, new)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet",
        "# nothing yet\n",
        "team: a",
        "kubernetes:\n",
        "kubernetes:",
        "kubernetes: # later\nteam: a\n",
        "kubernetes: ~\n",
        "kubernetes: {}  # none\n",
        "kubernetes: {namespace: x, images: {cpu: {reference: y}}}\nteam: b\n",
        "kubernetes:\n    namespace: deep\n",
        "kubernetes:\n  images:\n  namespace: x\n",
        "kubernetes:\n  images: {}\n",
        "kubernetes:\n  images:\n    cpu:\n  namespace: x\n",
        "kubernetes:\n  images:\n    cpu: null  # none\n",
        "kubernetes:\n  images: {\n    cpu: {reference: y}, # a\n    other: {reference: z}}\n",
        "kubernetes:\n  images:\n    cpu:\n      reference: y",
        "kubernetes:\n  images:\n    cpu:\n    - y\n    other: {reference: z}\n",
        "kubernetes:\r\n  images:\r\n    cpu:\r\n      reference: y\r\n  namespace: x\r\n",
        "---\nteam: a\n",
        "---\nteam: a\n...\n",
        "kubernetes:\n  images:\n    cpu:\n      reference: |\n        y\n    other: {reference: z}\nteam: |\n  a\n",
        "kubernetes:\n  namespace: >-\n    x\n\n# The end.\nteam: a\n",
        "kubernetes:\n  image_pull_secrets:\n  - one\n  - two\n# The end.\n",
    ],
)
def test_an_image_can_be_added_to_every_yaml_layout(text: str):
    written = with_image(text, "cpu", CPU)
    expected = yaml.safe_load(text) or {}
    kubernetes = expected.get("kubernetes") or {}
    expected["kubernetes"] = {**kubernetes, "images": {**(kubernetes.get("images") or {}), "cpu": CPU}}
    assert yaml.safe_load(written) == expected
    assert with_image(written, "cpu", CPU) == written
    assert not re.search(r"(?<!\r)\n", written) or "\r\n" not in text


KEYS = st.sampled_from(["cpu", "train-cpu", "images", "kubernetes", "team", "a b", "x:y"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab #:\n'\"{}[]&*-|", max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
GROUP = st.dictionaries(KEYS, VALUES, max_size=3)
FILES = st.builds(
    lambda root, kubernetes, images: {**root, "kubernetes": {**kubernetes, "images": images}}, GROUP, GROUP, GROUP
)


@given(FILES, st.booleans() | st.none(), st.integers(1, 5), KEYS)
def test_all_other_content_is_preserved(content: dict[str, Any], flow: bool | None, indent: int, name: str):
    text = yaml.safe_dump(content, default_flow_style=flow, indent=indent, sort_keys=False)
    assume(not text.startswith("{"))
    written = with_image(text, name, CPU)
    content["kubernetes"]["images"][name] = CPU
    assert yaml.safe_load(written) == content


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[a, b]", "no mapping"),
        ("{team: a}", "one {…}"),
        ("kubernetes:\n  images:\n    cpu: &one {reference: a}\n    train-cpu: *one\n", "undefined alias"),
        ("kubernetes:\n  images:\n    old: &one {reference: a}\n    cpu: *one\n", "alias"),
        ("kubernetes: [", "while parsing"),
    ],
)
def test_a_file_that_cannot_be_updated_is_kept_and_named(tmp_path: Path, text: str, cause: str):
    file = tmp_path / "airsmith.yaml"
    file.write_text(text)
    with pytest.raises(AirsmithError, match=r"airsmith\.yaml cannot take kubernetes\.images\.cpu") as raised:
        write_images(file, {"cpu": Image.model_validate(CPU)})
    assert cause in str(raised.value)
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_new_file_can_be_read_as_settings(tmp_path: Path):
    file = tmp_path / "airsmith.yaml"
    written = {"cpu": Image.model_validate(CPU), "train-cpu": Image(reference="registry/train-cpu@sha256:34")}
    write_images(file, written)
    assert load_settings({"AIRSMITH_SETTINGS": str(file)}).kubernetes.images == written


def test_a_file_keeps_its_mode_and_its_symbolic_link(tmp_path: Path):
    real = tmp_path / "real.yaml"
    real.write_text("team: a\n")
    real.chmod(0o600)
    link = tmp_path / "airsmith.yaml"
    link.symlink_to(real)
    write_images(link, {"cpu": Image.model_validate(CPU)})
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert images(real.read_text()) == {"cpu": CPU}
