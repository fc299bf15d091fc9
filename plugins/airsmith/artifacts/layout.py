"""Paths of all objects in the store: pure functions, no I/O."""

from __future__ import annotations

import hashlib
import re

from airsmith.errors import AirsmithError, ErrorKind

MANIFEST = "manifest.json"
ATTEMPT_PREFIX = "attempt="
"""Prefix of the folders that hold an artifact's content, one per attempt."""
STAGING_PREFIX = ".airsmith-partial-"
"""Prefix of incomplete files in a local folder."""
LOCK_FILE = ".airsmith-lock"

_TRIALS = "trials"
_RESERVED = re.compile(rf"(^|/)({re.escape(STAGING_PREFIX)}|{re.escape(LOCK_FILE)}$)")
_NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that S3 cannot list, because its responses are XML."""
_MAX_PATH_BYTES = 1024
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME_CHARACTERS = 80


def checked_path(path: str) -> str:
    """Validate the path of an object or the name of a file in an artifact: relative, plain and valid in every store.

    :raises ValueError: if the path is invalid.
    """
    parts = path.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in path
        or _NOT_IN_XML.search(path)
        or _RESERVED.search(path)
        or len(path.encode("utf-8", "surrogatepass")) > _MAX_PATH_BYTES
    ):
        raise ValueError(f"{path[:200]!r} cannot name a file in a store: it must be a plain relative path")
    return path


def artifact_folder(type: str, digest: str) -> str:
    """Folder of an artifact."""
    return f"artifacts/{type}/{digest}"


def checkpoint_folder(key: str, step: int) -> str:
    """Folder of a checkpoint."""
    return f"{checkpoints_folder(key)}/{step}"


def checkpoints_folder(key: str) -> str:
    """Folder of all checkpoints with a key."""
    return f"checkpoints/{key}"


def run_folder(dag_id: str, run_id: str) -> str:
    """Folder of a run. Airflow's ids contain `:`, `+` and more, which are replaced; a hash keeps names unique."""
    identity = hashlib.sha256(f"{dag_id}\0{run_id}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"runs/{_safe(dag_id)}/{_safe(run_id)}-{identity[:8]}"


def model_version_folder(name: str, version: int) -> str:
    """Folder of a registered version."""
    return f"models/{name}/{version}"


def champion_path(name: str) -> str:
    """File that records the champion version."""
    return f"models/{name}/champion.json"


def endpoint_path(name: str) -> str:
    """File that records an endpoint's revisions."""
    return f"endpoints/{name}.json"


def newest_mirror_path(repo_type: str, repo_id: str) -> str:
    """File that records the artifact of the newest mirrored commit of a Hub repository."""
    return f"mirrors/{repo_type}/{repo_id}.json"


def clock_path() -> str:
    """File that the janitor writes to read the store's clock."""
    return "janitor/clock"


def trial_folder(run: str, trial: str) -> str:
    """Folder of a trial of a run."""
    return f"{run}/{_TRIALS}/{trial}"


def trial_of(run: str, path: str) -> str:
    """Name of the run's trial whose folder contains a path; empty if no trial's does."""
    folder = trial_folder(run, "")
    return path.removeprefix(folder).split("/")[0] if path.startswith(folder) else ""


def split_run_uri(uri: str) -> tuple[str, str]:
    """Split the URI of a run or trial into the store's URI and the folder in the store.

    :raises AirsmithError: `not_found` if the URI is not a run's or a trial's.
    """
    of_run, trials, trial = uri.rstrip("/").rpartition(f"/{_TRIALS}/")
    if trials and trial and "/" not in trial:
        store, run = split_run_uri(of_run)
        return store, trial_folder(run, trial)
    store, *path = uri.rstrip("/").rsplit("/", 3)
    if len(path) != 3 or path[0] != "runs" or not store or {"", ".", ".."} & set(path):
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"{uri!r} is not the URI of a run.",
            "Use <store>/runs/<dag>/<run>, for example s3://bucket/prefix/runs/finetune_demo/manual-1a2b3c4d.",
        )
    return store, "/".join(path)


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)[:_MAX_NAME_CHARACTERS].strip(".") or "_"
