"""Names of everything in the store: pure functions, no I/O."""

from __future__ import annotations

import hashlib
import re

from airsmith.contracts.errors import AirsmithError, ErrorKind

MANIFEST = "manifest.json"

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_READABLE_PART = 80


def artifact_folder(type: str, digest: str) -> str:
    """Folder of an artifact."""
    return f"artifacts/{type}/{digest}"


def checkpoint_folder(key: str, step: int) -> str:
    """Folder of a training's checkpoint at a step."""
    return f"{checkpoints_folder(key)}/{step}"


def checkpoints_folder(key: str) -> str:
    """Folder of all checkpoints of one key."""
    return f"checkpoints/{key}"


def run_folder(dag_id: str, run_id: str) -> str:
    """Folder of a run. Airflow's run ids hold `:`, `+` and more, so they are made safe, and a hash keeps them apart."""
    return f"runs/{_safe(dag_id)}/{_safe(run_id)}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def model_version_folder(name: str, version: int) -> str:
    """Folder of a version in the registry."""
    return f"models/{name}/{version}"


def champion_path(name: str) -> str:
    """File that says which version is the champion."""
    return f"models/{name}/champion.json"


def endpoint_path(name: str) -> str:
    """File that says what an endpoint serves."""
    return f"endpoints/{name}.json"


def split_run_uri(uri: str) -> tuple[str, str]:
    """The store's URI and the folder in it that a run's URI names.

    :raises AirsmithError: `not_found` where the URI names no run.
    """
    store, separator, rest = uri.rstrip("/").rpartition("/runs/")
    if not separator or rest.count("/") != 1:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"{uri!r} is not the folder of a run.",
            "Write <store>/runs/<dag>/<run>, for example s3://bucket/prefix/runs/finetune_demo/manual-1a2b3c4d.",
        )
    return store, f"runs/{rest}"


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)[:_LONGEST_READABLE_PART].strip(".") or "_"
