"""A node that advertises Trainium devices, and a model for a tensor parallel size of 8."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from demo.hub.repository import publish
from tests.cluster.installation import REPOSITORY, STAGES_PYTHON, Cluster

INSTANCE_TYPE = "trn1.32xlarge"
DEVICES = {"aws.amazon.com/neuron": "16", "vpc.amazonaws.com/efa": "8"}
MODEL_ID = "airsmith/tiny-llama-tp8"
LABEL = "node.kubernetes.io/instance-type"


@contextmanager
def node_with_devices(cluster: Cluster) -> Iterator[str]:
    """Make a node advertise the label and the devices of a trn1.32xlarge to the scheduler; yield its name."""
    nodes = [node for node in cluster.core.list_node().items if not node.spec.taints and not node.spec.unschedulable]
    name = str(nodes[-1].metadata.name)
    _patch(cluster, name, INSTANCE_TYPE, DEVICES)
    try:
        yield name
    finally:
        _patch(cluster, name, None, dict.fromkeys(DEVICES))


def publish_model(hub: Path, folder: Path) -> None:
    """Publish the model on the Hub.

    :param hub: the Hub's folder.
    :param folder: a new folder for the model.
    """
    build = [STAGES_PYTHON, Path(__file__).parent / "build_tp8_model.py", folder]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(build, env=environment, check=True, stderr=subprocess.DEVNULL)
    publish(hub, "model", MODEL_ID, folder)


def _patch(cluster: Cluster, node: str, instance_type: str | None, devices: Mapping[str, str | None]) -> None:
    cluster.core.patch_node(node, {"metadata": {"labels": {LABEL: instance_type}}})
    cluster.core.patch_node_status(node, {"status": {"capacity": devices, "allocatable": devices}})
