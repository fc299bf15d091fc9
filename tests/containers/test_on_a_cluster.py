"""The built images run as non-root with a read-only root file system, under the `restricted` Pod Security Standard.

AIRSMITH_TEST_SETTINGS names the settings file with the images, KUBECONFIG the cluster; without them, these tests are
skipped.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kubernetes
import pytest

from airsmith.contracts.stages import STAGES
from airsmith.settings import Image, load_settings

WAIT_SECONDS = 240
SCRATCH = {"HOME": "/scratch", "TMPDIR": "/scratch", "HF_HOME": "/scratch/hf", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Pods:
    """Runs commands in pods of one namespace."""

    namespace: str
    core: kubernetes.client.CoreV1Api

    def run(self, image: Image, *command: str) -> tuple[str, str]:
        """Create a pod and wait until it terminates.

        :returns: its phase and its log.
        """
        name = f"image-{uuid.uuid4().hex[:8]}"
        self.core.create_namespaced_pod(self.namespace, _pod(name, image, command))
        watch = kubernetes.watch.Watch()
        events = watch.stream(
            self.core.list_namespaced_pod,
            self.namespace,
            field_selector=f"metadata.name={name}",
            timeout_seconds=WAIT_SECONDS,
        )
        phases = (event["object"].status.phase for event in events)
        phase = next((phase for phase in phases if phase in ("Succeeded", "Failed")), "still running")
        log = self.core.read_namespaced_pod_log(name, self.namespace, _preload_content=False)
        return phase, log.data.decode()


def _pod(name: str, image: Image, command: tuple[str, ...]) -> dict[str, object]:
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


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    if "AIRSMITH_TEST_SETTINGS" not in os.environ:
        pytest.skip("no images: AIRSMITH_TEST_SETTINGS is not set; see `make images`")
    return load_settings({"AIRSMITH_SETTINGS": os.environ["AIRSMITH_TEST_SETTINGS"]}).kubernetes.images


@pytest.fixture(scope="module")
def pods() -> Iterator[Pods]:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("no cluster: KUBECONFIG is not set")
    kubernetes.config.load_kube_config()
    core = kubernetes.client.CoreV1Api()
    namespace = f"airsmith-test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": namespace, "labels": labels}})
    yield Pods(namespace, core)
    core.delete_namespace(namespace)


def image_of(images: dict[str, Image], name: str) -> Image:
    if name not in images:
        pytest.skip(f"{Path(os.environ['AIRSMITH_TEST_SETTINGS']).name} contains no image {name!r}")
    return images[name]


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


@pytest.mark.parametrize("name", ["cpu", "train-cpu", "vllm-cpu", "airflow"])
def test_it_runs_as_non_root_with_a_read_only_root_file_system(pods: Pods, images: dict[str, Image], name: str):
    phase, log = pods.run(image_of(images, name), "python", "-c", CHECK_ENVIRONMENT)
    assert phase == "Succeeded", log


@pytest.mark.parametrize("name", ["cpu", "train-cpu"])
def test_the_stages_command_is_installed(pods: Pods, images: dict[str, Image], name: str):
    phase, log = pods.run(image_of(images, name), "airsmith-stage", "--help")
    assert phase == "Succeeded", log
    assert all(stage in log for stage in ("mirror_model", "train", "register"))


def test_the_light_image_runs_its_stages_without_torch(pods: Pods, images: dict[str, Image]):
    modules = ", ".join(
        f"airsmith_stages.{name}" for name in ("mirror_model", "mirror_dataset", "register", "smoke_test")
    )
    phase, log = pods.run(image_of(images, "cpu"), "python", "-c", f"import {modules}")
    assert phase == "Succeeded", log


def test_the_training_image_has_the_versions_in_the_settings(pods: Pods, images: dict[str, Image]):
    image = image_of(images, "train-cpu")
    assert set(image.toolchain) == {name for contract in STAGES.values() for name in contract.toolchain}
    shown = "; ".join(f"print('{name}', {name}.__version__)" for name in image.toolchain)
    phase, log = pods.run(image, "python", "-c", f"import {', '.join(image.toolchain)}; {shown}")
    assert phase == "Succeeded", log
    assert dict(re.findall(r"^(\w+) ([\d.]+)", log, re.MULTILINE)) == image.toolchain


@pytest.mark.parametrize("module", ["vllm.entrypoints.openai.api_server", "airsmith_stages.serving.fetch"])
def test_the_serving_image_can_fetch_a_model_and_serve_it(pods: Pods, images: dict[str, Image], module: str):
    phase, log = pods.run(image_of(images, "vllm-cpu"), "python", "-m", module, "--help")
    assert phase == "Succeeded", log
    assert "usage: " in log


def test_airflow_finds_the_plugin_and_git(pods: Pods, images: dict[str, Image]):
    command = "git --version && airflow plugins --output yaml"
    phase, log = pods.run(image_of(images, "airflow"), "sh", "-ec", command)
    assert phase == "Succeeded", log
    assert "airsmith" in log
