"""Bring a model from the store to the disk of the pod that serves it: `python -m airsmith.serving.fetch`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.errors import AirsmithError, ErrorKind


def main() -> int:
    """Fetch what the command line names; the error of a failure is the last line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m airsmith.serving.fetch", description=__doc__)
    parser.add_argument("store", help="URI of the store")
    parser.add_argument("artifact", help="the model's path in it")
    parser.add_argument("folder", type=Path, help="an empty folder, made where it is absent")
    options = parser.parse_args()
    try:
        fetch(options.store, options.artifact, options.folder)
    except AirsmithError as error:
        print(error.to_json_line(), file=sys.stderr)
        return 1
    return 0


def fetch(store: str, path: str, folder: Path) -> None:
    """Copy an artifact's files, each verified against the manifest.

    :raises AirsmithError: `not_found` where there is no such artifact, or what the store says.
    """
    artifact = open_artifact(Store.open(store), path)
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"There is no model {store}/{path}.", "Deploy a version that is in the store."
        )
    artifact.download(folder)


if __name__ == "__main__":
    sys.exit(main())
