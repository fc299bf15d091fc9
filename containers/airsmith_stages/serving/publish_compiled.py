"""Publish a server's compile cache: `python -m airsmith_stages.serving.publish_compiled`, a sidecar of the server.

It waits until the server is healthy: the cache is then complete and tested. It never exits on its own and never fails,
because either would make the pod unready; if it cannot publish the cache, the next server compiles again.
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
HEALTH_TIMEOUT_SECONDS = 5.0

_LOCK_SUFFIXES = (".lock", "/lock")
"""Suffixes of the compilers' lock files: in a published cache, the next server would wait for them forever."""


def main() -> int:
    """Wait until the server is healthy, publish the cache, and run until the pod terminates."""
    parser = argparse.ArgumentParser(prog="python -m airsmith_stages.serving.publish_compiled", description=__doc__)
    parser.add_argument("store", help="URI of the store")
    parser.add_argument("artifact", help="path of the compile cache in the store")
    parser.add_argument("folder", help="folder of the compile cache")
    parser.add_argument("health", help="URL of the server's health check")
    parser.add_argument("image", help="reference of the server's image")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    publish_when_healthy(options.health, lambda: _publish(options, stopped), stopped)
    return 0


def publish_when_healthy(address: str, publish: Callable[[], None], stopped: threading.Event) -> None:
    """Publish the cache as soon as the server is healthy, and wait until the pod terminates.

    :param stopped: set when the pod terminates.
    """
    if wait_until_healthy(address, stopped.wait):
        publish()
    stopped.wait()


def wait_until_healthy(address: str, pause: Callable[[float], bool]) -> bool:
    """Wait until a health check succeeds.

    :param pause: waits for a number of seconds; true if the pod terminates.
    :returns: whether the health check succeeded.
    """
    while not _is_healthy(address):
        if pause(POLL_SECONDS):
            return False
    return True


def publish_with_retries(store: str, path: str, folder: Path, image: str, pause: Callable[[float], bool]) -> None:
    """Publish the cache; retry if the error may be transient, otherwise log it."""
    while True:
        try:
            publish_compiled(Store.open(store), path, folder, image)
        except AirsmithError as error:
            log.warning("The compile cache is not published: %s %s", error.message, error.hint)
            if RETRIES[error.kind] is Retry.NEVER or pause(RETRY_SECONDS):
                return
            continue
        except OSError as error:
            log.warning("The compile cache is not published: %s", error)
        return


def publish_compiled(store: Store, path: str, folder: Path, image: str) -> Artifact | None:
    """Publish a folder as the artifact at a path, unless it exists.

    :param image: reference of the image with the compiler.
    :returns: the artifact; None if the folder is empty.
    :raises AirsmithError: the store's error.
    """
    existing = open_artifact(store, path)
    if existing is not None:
        log.info("%s already exists.", existing.uri)
        return existing
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not str(file).endswith(_LOCK_SUFFIXES)]
    if not files:
        log.warning("The server is healthy, but its compile cache %s is empty; the next server compiles again.", folder)
        return None
    digest = path.rsplit("/", 1)[-1]
    with write_artifact(
        store, path, type=ArtifactType.COMPILE_CACHE, digest=digest, inputs={}, versions={"image": image}
    ) as writer:
        for file in files:
            writer.add_file(file.relative_to(folder).as_posix(), file)
        artifact = writer.publish(metrics={"files": len(files)})
    log.info("Published %d files as %s; the next server starts from them.", len(files), artifact.uri)
    return artifact


def _publish(options: argparse.Namespace, stopped: threading.Event) -> None:
    publish_with_retries(options.store, options.artifact, Path(options.folder), options.image, stopped.wait)


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=HEALTH_TIMEOUT_SECONDS):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
