"""A compile cache that is not whole yet: kept in the store for the next try, which compiles only what is missing.

It lies where a training's checkpoints do, numbered by how many graphs it has.
"""

from __future__ import annotations

import logging
from pathlib import Path

from airsmith.artifacts.layout import MANIFEST, checkpoint_folder, checkpoints_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import open_artifact
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith_stages.frame import StageContext
from airsmith_stages.neuron.cache import clear_leftovers, count_graphs, files_to_keep, unpack_cache

log = logging.getLogger("airsmith")

_DAMAGE = (ErrorKind.VERIFICATION_FAILED, ErrorKind.NOT_FOUND)


def restore_cache(context: StageContext, folder: Path) -> int:
    """Fill a folder with what the last try has kept; what is damaged is passed over with a warning.

    :returns: how many compiled graphs it has.
    """
    key = _key(context)
    for number in reversed(_numbers(context)):
        try:
            kept = open_artifact(context.run.store, checkpoint_folder(key, number))
            if kept is not None:
                return unpack_cache(kept, folder)
        except AirsmithError as error:
            if error.kind not in _DAMAGE:
                raise
            log.warning("Passing over the cache of %d graphs: %s", number, error.message)
            clear_leftovers(folder)
    return count_graphs(folder)


def keep_cache(context: StageContext, folder: Path, restored: int) -> None:
    """Keep what a try that failed has compiled. That this fails, too, changes nothing about the first failure.

    :param restored: how many graphs were there before the try.
    """
    graphs = count_graphs(folder)
    if graphs <= restored:
        return
    try:
        with write_artifact(
            context.run.store,
            checkpoint_folder(_key(context), graphs),
            type="checkpoint",
            digest=context.wanted.digest,
            inputs={},
            versions={},
        ) as writer:
            for name, path in files_to_keep(folder).items():
                writer.add_file(name, path)
            writer.publish(metrics={"graphs": graphs})
        log.info("Kept %d compiled graphs for the next try", graphs)
        _remove(context, below=graphs)
    except AirsmithError as unkept:
        log.warning("The %d compiled graphs could not be kept: %s", graphs, unkept.message)


def forget_cache(context: StageContext) -> None:
    """Remove what was kept, once the whole cache is there; what stays behind is the janitor's."""
    try:
        _remove(context)
    except AirsmithError as left:
        log.warning("What earlier tries have kept could not be removed: %s", left.message)


def _remove(context: StageContext, below: int | None = None) -> None:
    """Remove what was kept, each one's manifest first: without it nobody takes the rest for a cache."""
    store = context.run.store
    for number in _numbers(context):
        if below is None or number < below:
            folder = checkpoint_folder(_key(context), number)
            store.delete(f"{folder}/{MANIFEST}")
            for info in list(store.list(folder)):
                store.delete(info.path)


def _numbers(context: StageContext) -> list[int]:
    """Numbers of what is kept, in numeric order."""
    prefix = f"{checkpoints_folder(_key(context))}/"
    paths = (info.path.removeprefix(prefix).split("/") for info in context.run.store.list(prefix.rstrip("/")))
    return sorted({int(parts[0]) for parts in paths if parts[0].isdigit() and parts[1:] == [MANIFEST]})


def _key(context: StageContext) -> str:
    return checkpoint_key(context.contract, context.spec, context.pointers)
