"""A compile cache that is not whole yet: kept in the store for the next try, which compiles only what is missing.

It lies where a training's checkpoints do, numbered by how many graphs it has.
"""

from __future__ import annotations

import logging
from pathlib import Path

from airsmith.artifacts.publish import write_artifact
from airsmith.contracts.digests import checkpoint_key
from airsmith.errors import AirsmithError
from airsmith_stages.checkpoint_folders import CheckpointFolders
from airsmith_stages.neuron.cache import clear_leftovers, count_graphs, files_to_keep, unpack_cache
from airsmith_stages.stage_context import StageContext

log = logging.getLogger("airsmith")


def restore_partial_cache(context: StageContext, folder: Path) -> int:
    """Fill a folder with what the last try has kept; what is damaged is passed over with a warning.

    :returns: how many compiled graphs it has.
    """
    restored = _folders(context).restore_newest(
        lambda _, kept: unpack_cache(kept, folder), discard=lambda _: clear_leftovers(folder)
    )
    return count_graphs(folder) if restored is None else restored


def save_partial_cache(context: StageContext, folder: Path, restored: int) -> None:
    """Keep what a try that failed has compiled. That this fails, too, changes nothing about the first failure.

    :param restored: how many graphs were there before the try.
    """
    graphs = count_graphs(folder)
    if graphs <= restored:
        return
    folders = _folders(context)
    try:
        with write_artifact(
            context.run.store,
            folders.path(graphs),
            type="checkpoint",
            digest=context.output.digest,
            inputs={},
            versions={},
        ) as writer:
            for name, path in files_to_keep(folder).items():
                writer.add_file(name, path)
            writer.publish(metrics={"graphs": graphs})
        log.info("Kept %d compiled graphs for the next try", graphs)
        for fewer in folders.begun():
            if fewer < graphs:
                folders.remove(fewer)
    except AirsmithError as unkept:
        log.warning("The %d compiled graphs could not be kept: %s", graphs, unkept.message)


def delete_partial_cache(context: StageContext) -> None:
    """Remove what was kept, once the whole cache is there; what stays behind is the janitor's."""
    folders = _folders(context)
    try:
        for graphs in folders.begun():
            folders.remove(graphs)
    except AirsmithError as left:
        log.warning("What earlier tries have kept could not be removed: %s", left.message)


def _folders(context: StageContext) -> CheckpointFolders:
    return CheckpointFolders(context.run.store, checkpoint_key(context.contract, context.spec, context.pointers))
