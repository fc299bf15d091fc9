"""Keep what a server has compiled: `python -m airsmith_stages.serving.publish_compiled`, beside the server in its pod.

It waits until the server answers: only then is all compiled that the server needs, and proved. It never ends by itself
and never fails, for either would take the pod's requests away; what it cannot keep, the next server compiles again.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError
from airsmith.errors.retries import RETRIES, Retry

log = logging.getLogger("airsmith")

POLL_SECONDS = 5.0
RETRY_SECONDS = 60.0
ANSWER_SECONDS = 5.0

_LOCKS = (".lock", "/lock")
"""Ends of the names of files by which processes wait for each other: taken along, they would be waited for forever."""


def main() -> int:
    """Wait, publish, and stay until the pod ends."""
    parser = argparse.ArgumentParser(prog="python -m airsmith_stages.serving.publish_compiled", description=__doc__)
    parser.add_argument("store", help="URI of the store")
    parser.add_argument("artifact", help="path in it of what the server has compiled")
    parser.add_argument("folder", help="where the server has put it")
    parser.add_argument("health", help="address that answers once all is compiled")
    parser.add_argument("image", help="reference of the server's image")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    stay_beside(options.health, lambda: _keep_as_told(options, ended), ended)
    return 0


def stay_beside(address: str, keep_it: Callable[[], None], ended: threading.Event) -> None:
    """Keep what was compiled once a server answers, and wait for the pod's end.

    :param ended: set when the pod ends.
    """
    if wait_until_healthy(address, ended.wait):
        keep_it()
    ended.wait()


def wait_until_healthy(address: str, pause: Callable[[float], bool]) -> bool:
    """Wait until an address answers with success.

    :param pause: waits so many seconds; true where nobody waits any more.
    :returns: whether it answers.
    """
    while not _is_healthy(address):
        if pause(POLL_SECONDS):
            return False
    return True


def keep(store: str, path: str, folder: Path, image: str, pause: Callable[[float], bool]) -> None:
    """Publish, and try again where that may help; what is in the way otherwise is told."""
    while True:
        try:
            publish_compiled(Store.open(store), path, folder, image)
        except AirsmithError as error:
            log.warning("What was compiled is not kept: %s %s", error.message, error.hint)
            if RETRIES[error.kind] is Retry.NEVER or pause(RETRY_SECONDS):
                return
            continue
        except OSError as error:
            log.warning("What was compiled is not kept: %s", error)
        return


def publish_compiled(store: Store, path: str, folder: Path, image: str) -> Artifact | None:
    """Publish what lies in a folder as the artifact at a path, unless it is there.

    :param image: reference of the image whose compiler made it.
    :returns: the artifact; None where nothing was compiled.
    :raises AirsmithError: what the store says.
    """
    known = open_artifact(store, path)
    if known is not None:
        log.info("%s is there already.", known.uri)
        return known
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not str(file).endswith(_LOCKS)]
    if not files:
        log.warning("The server answers, but has left nothing compiled in %s: later ones compile again.", folder)
        return None
    digest = path.rsplit("/", 1)[-1]
    with write_artifact(
        store, path, type=ArtifactType.COMPILE_CACHE, digest=digest, inputs={}, versions={"image": image}
    ) as writer:
        for file in files:
            writer.add_file(file.relative_to(folder).as_posix(), file)
        artifact = writer.publish(metrics={"files": len(files)})
    log.info("Kept %d files in %s: later servers begin with them.", len(files), artifact.uri)
    return artifact


def _keep_as_told(options: argparse.Namespace, ended: threading.Event) -> None:
    keep(options.store, options.artifact, Path(options.folder), options.image, ended.wait)


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
