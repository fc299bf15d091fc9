"""Stage `mirror_dataset`: copy the dataset's files from the Hub or a store, verified."""

from __future__ import annotations

from fnmatch import fnmatchcase

from airsmith.contracts.cache import Output
from airsmith.recipe.sources import PICKLED_WEIGHTS
from airsmith_stages.mirroring.copying import publish_copy
from airsmith_stages.mirroring.source import Source
from airsmith_stages.stage_context import StageContext

NEVER_COPIED = (*PICKLED_WEIGHTS, "*.pickle", "*.py", ".gitattributes")
"""Executable content and files unrelated to the examples."""


def run(context: StageContext) -> Output:
    """Copy the recipe's dataset."""
    dataset = context.spec.recipe.dataset
    source = Source("dataset", dataset.id, dataset.revision)
    files = [file for file in source.files() if not any(fnmatchcase(file.name, glob) for glob in NEVER_COPIED)]
    return publish_copy(source, files, context)
