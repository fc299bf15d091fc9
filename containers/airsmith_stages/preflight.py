"""Preflight checks that must run in a pod: whether the run's pods can use the store, the Hub and the registries."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from airsmith.artifacts.listing import list_source
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import stages_to_run
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.checks import Check, check_all
from airsmith.hub import RepoType, pinned_revision
from airsmith.recipe.sources import source_kind
from airsmith_stages.image_registry import refuse_missing_image

log = logging.getLogger("airsmith")

DEFAULT_HUB = "https://huggingface.co"


def run_preflight(run: Run, pull_secrets: Path | None = None) -> None:
    """Run all checks for the run's pods.

    :param pull_secrets: folder with the registries' credentials, one subfolder per Secret.
    :raises AirsmithError: all failures, each with its remedy.
    """
    spec = run.read_spec()
    stages = stages_to_run(run, spec)
    check_all(
        [partial(refuse_unfit_store, run), *_source_checks(spec, stages), *_image_checks(spec, stages, pull_secrets)]
    )
    log.info("Preflight passed: store, sources and images are usable.")


def refuse_unfit_store(run: Run) -> None:
    """Check that the store honors conditional puts, which publishing relies on.

    :raises AirsmithError: the store's error, or `verification_failed` if it ignores conditional puts.
    """
    path = f"{run.path}/preflight-{uuid.uuid4()}"
    try:
        created = run.store.create(path, b"first")
        stale = run.store.read_with_version(path)[1]
        is_kept = created and not run.store.create(path, b"second")
        is_swapped = run.store.compare_and_swap(path, b"third", stale)
        if not (is_kept and is_swapped) or run.store.compare_and_swap(path, b"fourth", stale):
            raise AirsmithError(
                ErrorKind.VERIFICATION_FAILED,
                f"The store {run.store.uri} ignores conditional puts (If-None-Match, If-Match): "
                "two runs could overwrite each other's results.",
                "Use S3, a recent MinIO, or another store that honors them.",
            )
    finally:
        _remove(run.store, path)


def _remove(store: Store, path: str) -> None:
    try:
        store.delete(path)
    except AirsmithError as failure:  # Publishing does not require permission to delete.
        log.warning("Cannot delete %s: %s", path, failure)


def _source_checks(spec: RunSpec, stages: tuple[str, ...]) -> Iterator[Check]:
    """Checks of the sources that are not mirrored yet."""
    recipe = spec.recipe
    sources: tuple[tuple[str, RepoType, str, str], ...] = (
        ("mirror_model", "model", recipe.model.id, recipe.model.revision),
        ("mirror_dataset", "dataset", recipe.dataset.id, recipe.dataset.revision),
    )
    for stage, repo_type, source_id, revision in sources:
        if stage in stages and source_kind(source_id) == "hub":
            yield partial(_refuse_unreadable_repository, repo_type, source_id, revision)
        elif stage in stages and source_kind(source_id) == "store":
            yield partial(_refuse_unreadable_folder, source_id)


def _refuse_unreadable_repository(repo_type: RepoType, repo_id: str, revision: str) -> None:
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_HUB
    pinned_revision(repo_type, repo_id, revision, endpoint=endpoint, token=os.environ.get("HF_TOKEN"))


def _refuse_unreadable_folder(uri: str) -> None:
    list_source(uri)


def _image_checks(spec: RunSpec, stages: tuple[str, ...], pull_secrets: Path | None) -> Iterator[Check]:
    """Checks of the images to pull, except this pod's own, which is already pulled."""
    own = spec.plan.stage("mirror_model").image
    names = dict.fromkeys(spec.plan.stage(stage).image for stage in stages)
    for name in names:
        if name != own and name in spec.images:
            yield partial(refuse_missing_image, spec.images[name], pull_secrets)
