"""Saves an incomplete compile cache in the store, so that the next attempt compiles only the missing graphs.

It is stored like a training's checkpoints, numbered by its count of graphs.
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
    """Download the newest saved cache to a folder, and skip damaged ones with a warning.

    :returns: the number of compiled graphs in the folder.
    """
    restored = _folders(context).restore_newest(
        lambda _, kept: unpack_cache(kept, folder), discard=lambda _: clear_leftovers(folder)
    )
    return count_graphs(folder) if restored is None else restored


def save_partial_cache(context: StageContext, folder: Path, restored: int) -> None:
    """Save the graphs that a failed attempt has compiled. A failure to save is only logged.

    :param restored: number of graphs before the attempt.
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
        log.info("Saved %d compiled graphs for the next attempt", graphs)
        for fewer in folders.existing():
            if fewer < graphs:
                folders.remove(fewer)
    except AirsmithError as failure:
        log.warning("Failed to save %d compiled graphs: %s", graphs, failure.message)


def delete_partial_cache(context: StageContext) -> None:
    """Remove the saved caches after the complete one is published; after a failure, the janitor removes the rest."""
    folders = _folders(context)
    try:
        for graphs in folders.existing():
            folders.remove(graphs)
    except AirsmithError as failure:
        log.warning("Failed to remove the saved caches of earlier attempts: %s", failure.message)


def _folders(context: StageContext) -> CheckpointFolders:
    return CheckpointFolders(context.run.store, checkpoint_key(context.contract, context.spec, context.pointers))
