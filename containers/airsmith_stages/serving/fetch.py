"""Copy a model from the store to the disk of the pod that serves it: `python -m airsmith_stages.serving.fetch`."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind

log = logging.getLogger("airsmith")

MAX_CONCURRENT_FILES = 4
"""One core for hashes and one connection are slower than the store."""


def main() -> int:
    """Copy the artifacts that the command line names; on failure, the last line on stderr is the error."""
    parser = argparse.ArgumentParser(prog="python -m airsmith_stages.serving.fetch", description=__doc__)
    parser.add_argument("store", help="URI of the store")
    parser.add_argument(
        "copies",
        nargs="+",
        metavar="ARTIFACT FOLDER",
        help="path of an artifact in the store and its target folder; may be repeated",
    )
    parser.add_argument(
        "--optional",
        nargs=2,
        metavar=("ARTIFACT", "FOLDER"),
        help="path of an artifact that the server can do without, such as a compile cache, and its target folder",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(options.copies) % 2:
        parser.error(f"no folder for artifact {options.copies[-1]}")
    try:
        for artifact, folder in zip(options.copies[::2], options.copies[1::2], strict=True):
            fetch(options.store, artifact, Path(folder))
        if options.optional:
            fetch_if_exists(options.store, options.optional[0], Path(options.optional[1]))
    except AirsmithError as error:
        print(error.to_json_line(), file=sys.stderr)
        return 1
    return 0


def fetch(store: str, path: str, folder: Path) -> None:
    """Copy an artifact's files and verify each against the manifest.

    :param folder: created if it does not exist.
    :raises AirsmithError: `not_found` if the artifact does not exist, or the store's error.
    """
    artifact = open_artifact(Store.open(store), path)
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Model {store}/{path} does not exist.",
            "Deploy a version whose model is in the store.",
        )
    _download(artifact, folder)


def fetch_if_exists(store: str, path: str, folder: Path) -> bool:
    """Copy an artifact's files if it exists. A damaged artifact is skipped, and its folder deleted.

    :returns: whether the folder contains the artifact.
    :raises AirsmithError: the store's error.
    """
    try:
        artifact = open_artifact(Store.open(store), path)
        if artifact is None:
            log.info("%s/%s does not exist yet; the server creates it.", store, path)
            return False
        _download(artifact, folder)
    except AirsmithError as error:
        if error.kind is not ErrorKind.VERIFICATION_FAILED:
            raise
        log.warning("%s %s", error.message, error.hint)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    log.info("The server starts from %s.", artifact.uri)
    return True


def _download(artifact: Artifact, folder: Path) -> None:
    with ThreadPoolExecutor(MAX_CONCURRENT_FILES) as pool:
        for _ in pool.map(lambda name: artifact.download(folder, [name]), artifact.names()):
            pass


if __name__ == "__main__":
    sys.exit(main())
