"""The built images run under the `restricted` standard: without root, with a read-only root file system."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import kubernetes
import pytest

from airsmith.contracts.stages import STAGES
from airsmith.settings import Image, load_settings
from tests.cluster.installation import Cluster

WAIT_SECONDS = 240
SCRATCH = {"HOME": "/scratch", "TMPDIR": "/scratch", "HF_HOME": "/scratch/hf", "HF_HUB_OFFLINE": "1"}


def run_in_pod(cluster: Cluster, image: Image, *command: str) -> str:
    """Run a command in a pod of an image; return its log after it succeeded."""
    name = f"image-{uuid.uuid4().hex[:8]}"
    cluster.core.create_namespaced_pod(cluster.namespace, pod_manifest(name, image, command))
    watch = kubernetes.watch.Watch()
    events = watch.stream(
        cluster.core.list_namespaced_pod,
        cluster.namespace,
        field_selector=f"metadata.name={name}",
        timeout_seconds=WAIT_SECONDS,
    )
    phases = (event["object"].status.phase for event in events)
    phase = next((phase for phase in phases if phase in ("Succeeded", "Failed")), "still running")
    log = cluster.core.read_namespaced_pod_log(name, cluster.namespace, _preload_content=False).data.decode()
    cluster.core.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=0)
    assert phase == "Succeeded", log
    return str(log)


def pod_manifest(name: str, image: Image, command: tuple[str, ...]) -> dict[str, object]:
    return {
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [
                {
                    "name": "base",
                    "image": image.reference,
                    "command": list(command),
                    "env": [{"name": name, "value": value} for name, value in SCRATCH.items()],
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def image_named(images: Path, name: str) -> Image:
    known = load_settings({"AIRSMITH_SETTINGS": str(images)}).kubernetes.images
    if name not in known:
        pytest.skip(f"{images.name} names no image {name!r}")
    return known[name]


def each_image(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.images(name)) for name in names])


CHECK_ENVIRONMENT = """
import os, shutil, sys
assert os.getuid() == 10001, os.getuid()
for folder in ("/", "/opt/airsmith", "/tmp", sys.prefix):
    assert not os.access(folder, os.W_OK), folder
open("/scratch/file", "w").close()
import getpass, pathlib
assert getpass.getuser() == "airsmith" and pathlib.Path.home() == pathlib.Path("/scratch")
assert not [tool for tool in ("uv", "g++", "cmake", "make") if shutil.which(tool)]
import airsmith
assert pathlib.Path(airsmith.__cached__).exists(), "no bytecode"
"""


@each_image("cpu", "train-cpu", "vllm-cpu", "airflow")
def test_an_image_runs_without_root_on_a_read_only_file_system(cluster: Cluster, images: Path, name: str) -> None:
    run_in_pod(cluster, image_named(images, name), "python", "-c", CHECK_ENVIRONMENT)


@each_image("cpu", "train-cpu")
def test_the_stage_command_lists_the_stages(cluster: Cluster, images: Path, name: str) -> None:
    log = run_in_pod(cluster, image_named(images, name), "airsmith-stage", "--help")
    assert all(stage in log for stage in ("mirror_model", "train", "register"))


@pytest.mark.images("cpu")
def test_the_light_image_imports_its_stages_without_torch(cluster: Cluster, images: Path) -> None:
    modules = ", ".join(
        f"airsmith_stages.{name}" for name in ("mirror_model", "mirror_dataset", "register", "smoke_test")
    )
    run_in_pod(cluster, image_named(images, "cpu"), "python", "-c", f"import {modules}")


@pytest.mark.images("train-cpu")
def test_the_training_image_has_the_versions_in_the_settings(cluster: Cluster, images: Path) -> None:
    image = image_named(images, "train-cpu")
    assert set(image.toolchain) == {name for contract in STAGES.values() for name in contract.toolchain}
    shown = "; ".join(f"print('{name}', {name}.__version__)" for name in image.toolchain)
    log = run_in_pod(cluster, image, "python", "-c", f"import {', '.join(image.toolchain)}; {shown}")
    assert dict(re.findall(r"^(\w+) ([\d.]+)", log, re.MULTILINE)) == image.toolchain


@pytest.mark.images("vllm-cpu")
@pytest.mark.parametrize("module", ["vllm.entrypoints.openai.api_server", "airsmith_stages.serving.fetch"])
def test_the_serving_image_can_fetch_and_serve_a_model(cluster: Cluster, images: Path, module: str) -> None:
    log = run_in_pod(cluster, image_named(images, "vllm-cpu"), "python", "-m", module, "--help")
    assert "usage: " in log


@pytest.mark.images("airflow")
def test_the_airflow_image_has_the_plugin_and_git(cluster: Cluster, images: Path) -> None:
    command = "git --version && airflow plugins --output yaml"
    log = run_in_pod(cluster, image_named(images, "airflow"), "sh", "-ec", command)
    assert "airsmith" in log
