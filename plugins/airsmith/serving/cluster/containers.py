"""What the containers of a server's pod have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airsmith.cluster.manifest import Manifest, as_manifest
from airsmith.cluster.security import container_security
from airsmith.settings import Settings

PORT = 8000
MODEL_FOLDER = "/scratch/model"
ADAPTERS_FOLDER = "/scratch/adapters"


def container(
    image: str, settings: Settings, environment: Mapping[str, str], secret_variables: Sequence[Manifest] = ()
) -> Manifest:
    """What all containers have: rights, scratch disk, and no way out to the Hub.

    :param image: its name in the settings.
    """
    plain = {
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "HF_HOME": "/scratch/huggingface",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **environment,
    }
    return {
        "image": settings.image(image).reference,
        "env": [*({"name": name, "value": value} for name, value in plain.items()), *secret_variables],
        "securityContext": as_manifest(container_security()),
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }


def light_container(name: str, command: Sequence[str], settings: Settings, requests: Mapping[str, str]) -> Manifest:
    """A container of ours beside the server, whose image may be a vendor's; it knows the store.

    :param command: a module of the package, and its arguments.
    """
    return {
        **container("cpu", settings, settings.kubernetes.environment),
        "name": name,
        "command": ["python", "-m", *command],
        "envFrom": store_credentials(settings),
        "resources": {"requests": dict(requests), "limits": {"memory": "2Gi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def store_credentials(settings: Settings) -> list[Manifest]:
    """What opens the store, by reference; none with pod identity."""
    secret = settings.kubernetes.store_secret
    return [{"secretRef": {"name": secret}}] if secret else []
