"""Rules for every Dockerfile and its lock."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import get_args

import pytest

from airsmith.backends import get_backend
from airsmith.pipeline.plan import LIGHT_IMAGE
from airsmith.recipe.operation import BackendName
from scripts.images.__main__ import CONTEXT

REPOSITORY = Path(__file__).parents[2]
IMAGES = sorted(file.parent.name for file in REPOSITORY.glob("containers/*/Dockerfile"))
STAGE_IMAGES = [image for image in IMAGES if image == "cpu" or image.startswith("train-")]
SERVING_IMAGES = [image for image in IMAGES if image.startswith("vllm-")]

each = pytest.mark.parametrize("image", IMAGES)


def instructions(image: str) -> list[str]:
    """A Dockerfile's instructions, each on one line."""
    text = (REPOSITORY / "containers" / image / "Dockerfile").read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line and not line.startswith("#")]


def stage(image: str, name: str) -> list[str]:
    """The instructions of a build stage; the last stage has no name."""
    lines = instructions(image)
    begins = [index for index, line in enumerate(lines) if line.startswith("FROM ")]
    [begin] = [index for index in begins if lines[index].partition(" AS ")[2] == name]
    return lines[begin : next((index for index in begins if index > begin), len(lines))]


def locked(image: str) -> set[str]:
    """The distributions of an image's lock."""
    lock = (REPOSITORY / "containers" / image / "requirements.lock").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE))


def declared(config: str, *extras: str) -> set[str]:
    """The distributions that a setup.cfg names."""
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / config)
    lines = parser["options"]["install_requires"].split()
    lines += [word for extra in extras for word in parser["options.extras_require"][extra].split()]
    names = {re.split(r"[<>=\[;]", line)[0].lower().replace("_", "-") for line in lines}
    return names - {"airsmith", ""}


def test_every_backends_training_image_has_a_dockerfile():
    backends = [get_backend(name) for name in get_args(BackendName)]
    assert {LIGHT_IMAGE, *(backend.train_image for backend in backends)} <= set(IMAGES)


@each
def test_the_base_is_an_argument_and_code_has_its_own_stage(image: str):
    assert instructions(image)[0].startswith("ARG BASE_IMAGE=")
    assert stage(image, "code")[0] == "FROM ${BASE_IMAGE} AS code"
    assert stage(image, "")[0] == "FROM ${BASE_IMAGE}"
    assert [line for line in stage(image, "") if "--from=" in line] == ["COPY --from=code /opt/code /opt/airsmith"]


@each
def test_the_user_is_unprivileged_and_can_only_write_to_scratch(image: str):
    lines = stage(image, "")
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert not [line for line in lines[lines.index("USER 10001:10001") :] if line.startswith(("RUN ", "COPY "))]
    assert not [line for line in lines if "--chown" in line or "chmod" in line]
    assert any(line.startswith("ENV ") and " HOME=/scratch " in line for line in lines)


@each
def test_the_commit_is_the_last_label_so_no_layer_depends_on_it(image: str):
    assert instructions(image)[-2] == "ARG COMMIT=unknown"
    assert 'org.opencontainers.image.revision="${COMMIT}"' in instructions(image)[-1]


@each
def test_build_tools_are_removed_and_no_entrypoint_is_set(image: str):
    lines = stage(image, "")
    compilers = [line for line in lines if re.search(r"\b(gcc|g\+\+|cmake|build-essential)\b", line)]
    assert not compilers or image == "vllm-cuda"
    installs = [line for line in lines if re.search(r"\b(pip|uv) ", line)]
    assert installs
    for step in installs:
        assert "python -m venv /tmp/tools " in step
        assert step.endswith("&& rm -rf /tmp/tools")
    assert not [line for line in lines if line.startswith("ENTRYPOINT") and line != "ENTRYPOINT []"]


@each
def test_every_package_is_installed_by_hash(image: str):
    steps = [step for line in instructions(image) for step in line.split(" && ") if "pip install" in step]
    [own] = [step for step in steps if "--require-hashes" not in step]
    assert own.endswith(f"--prefix /opt/code .{' ./containers' if image in STAGE_IMAGES + SERVING_IMAGES else ''}")
    assert "--no-deps" in own
    assert "--build-constraints build-tools.lock" in own
    assert all("--no-deps" in step for step in steps if step.startswith("uv "))


@each
def test_copied_paths_exist_and_are_in_the_build_context(image: str):
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == set(CONTEXT)
    copies = [line.split()[1:-1] for line in instructions(image) if line.startswith("COPY ") and "--from" not in line]
    for path in (path for copy in copies for path in copy):
        assert (REPOSITORY / path).exists(), path
        assert any(path == name or path.startswith(f"{name}/") for name in allowed), path


@pytest.mark.parametrize("image", STAGE_IMAGES)
def test_a_stage_images_lock_contains_all_declared_dependencies(image: str):
    training = {LIGHT_IMAGE: (), "train-cpu-ray": ("train", "ray"), "train-neuron-xla": ("neuron-xla",)}
    needed = declared("setup.cfg") | declared("containers/setup.cfg", *training.get(image, ("train",)))
    has_torch_from_elsewhere = image not in (LIGHT_IMAGE, "train-cuda", "train-neuron-xla")
    assert needed - locked(image) == ({"torch"} if has_torch_from_elsewhere else set())


@pytest.mark.parametrize("image", SERVING_IMAGES)
def test_a_serving_images_lock_contains_airsmiths_dependencies_and_vllm(image: str):
    assert declared("setup.cfg") | {image.removesuffix("-cuda")} <= locked(image)


def test_the_light_image_contains_no_training_library():
    assert not locked("cpu") & {"torch", "transformers", "accelerate", "peft", "datasets", "pandas"}


def test_cpu_images_contain_no_gpu_library():
    for image in ("cpu", "train-cpu", "train-cpu-ray", "vllm-cpu", "airflow"):
        assert not [name for name in locked(image) if re.match(r"nvidia|cuda|triton", name)]


def test_training_images_lock_the_same_versions():
    def versions(image: str) -> set[str]:
        lock = (REPOSITORY / "containers" / image / "requirements.lock").read_text()
        return set(re.findall(r"^(?:transformers|peft|accelerate|datasets|tokenizers)==\S+", lock, re.MULTILINE))

    assert versions("train-cpu") == versions("train-rocm")
    for image in ("train-cuda", "train-cpu-ray", "train-neuron-native"):
        assert versions(image) <= versions("train-cpu")


def test_neuron_libraries_come_from_the_base_image():
    neuron = {"neuronx-cc", "torch-neuronx", "neuronx-distributed", "libneuronxla", "torch-xla"}
    for image in ("train-neuron-xla", "train-neuron-native"):
        assert not locked(image) & {"torch", "triton", *neuron}
    assert "protobuf" not in locked("train-neuron-xla")


def test_the_neuron_tests_lock_the_versions_of_the_neuron_image():
    def versions(lock: Path) -> set[str]:
        return set(re.findall(r"^[a-z0-9._-]+==\S+", lock.read_text(), re.MULTILINE))

    image = versions(REPOSITORY / "containers" / "train-neuron-xla" / "requirements.lock")
    assert image <= versions(REPOSITORY / "tests" / "neuron" / "requirements.lock")
