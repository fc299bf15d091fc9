"""Stage `mirror_dataset`: the dataset's files, from the Hub or a store, verified."""

from __future__ import annotations

from fnmatch import fnmatchcase

from airsmith.contracts.cache import Output
from airsmith.recipe.sources import PICKLED_WEIGHTS
from airsmith_stages.frame import StageContext
from airsmith_stages.mirroring.copying import copy_files, list_files, refuse_changed, refuse_nothing

NEVER_COPIED = (*PICKLED_WEIGHTS, "*.pickle", "*.py", ".gitattributes")
"""A dataset is data: what could run, or says nothing about the examples, stays where it is."""


def run(context: StageContext) -> Output:
    """Copy the dataset that the recipe names."""
    dataset = context.spec.recipe.dataset
    found = list_files("dataset", dataset.id, dataset.revision)
    files = [file for file in found if not any(fnmatchcase(file.name, pattern) for pattern in NEVER_COPIED)]
    refuse_nothing(files, dataset.id)
    with context.write_output() as output:
        size_bytes = copy_files(files, output)
        refuse_changed(dataset.id, dataset.revision)
        return Output.of_artifact(output.publish(metrics={"size_bytes": size_bytes}))
