"""Bring a model from the store to the disk of the pod that serves it: `python -m airsmith_stages.serving.fetch`."""

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

FILES_AT_ONCE = 4
"""One core hashes, and one connection brings, less than a store can give."""


def main() -> int:
    """Fetch what the command line names; the error of a failure is the last line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m airsmith_stages.serving.fetch", description=__doc__)
    parser.add_argument("store", help="URI of the store")
    parser.add_argument(
        "copies", nargs="+", metavar="ARTIFACT FOLDER", help="an artifact's path in it and where to, again and again"
    )
    parser.add_argument(
        "--if-there",
        nargs=2,
        metavar=("ARTIFACT", "FOLDER"),
        help="an artifact that a server starts faster with, and where to",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(options.copies) % 2:
        parser.error(f"no folder is given for {options.copies[-1]}")
    try:
        for artifact, folder in zip(options.copies[::2], options.copies[1::2], strict=True):
            fetch(options.store, artifact, Path(folder))
        if options.if_there:
            fetch_if_there(options.store, options.if_there[0], Path(options.if_there[1]))
    except AirsmithError as error:
        print(error.to_json_line(), file=sys.stderr)
        return 1
    return 0


def fetch(store: str, path: str, folder: Path) -> None:
    """Copy an artifact's files, each verified against the manifest.

    :param folder: made where it is absent.
    :raises AirsmithError: `not_found` where there is no such artifact, or what the store says.
    """
    artifact = open_artifact(Store.open(store), path)
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"There is no model {store}/{path}.", "Deploy a version that is in the store."
        )
    _download(artifact, folder)


def fetch_if_there(store: str, path: str, folder: Path) -> bool:
    """Copy an artifact's files where there is one. Of a damaged one nothing is left: the server does without.

    :returns: whether the folder holds it.
    :raises AirsmithError: what the store says of the store itself.
    """
    try:
        artifact = open_artifact(Store.open(store), path)
        if artifact is None:
            log.info("There is no %s/%s yet: the server makes it.", store, path)
            return False
        _download(artifact, folder)
    except AirsmithError as error:
        if error.kind is not ErrorKind.VERIFICATION_FAILED:
            raise
        log.warning("%s %s", error.message, error.hint)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    log.info("The server begins with %s.", artifact.uri)
    return True


def _download(artifact: Artifact, folder: Path) -> None:
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for _ in pool.map(lambda name: artifact.download(folder, [name]), artifact.names()):
            pass


if __name__ == "__main__":
    sys.exit(main())
