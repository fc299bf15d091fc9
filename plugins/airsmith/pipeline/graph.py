"""The id of a recipe's DAG, the edges between its stages, and their task groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from airsmith.contracts.stages import STAGES

GROUPS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("mirror_model", "mirror_dataset", "tokenize"),
    "train": ("compile", "train", "compare_trials", "consolidate"),
    "validate": ("merge", "evaluate"),
    "ship": ("register", "deploy", "smoke_test"),
}
"""All stages of any backend, by task group."""


def dag_id_of(recipe_file: Path, shape: str = "finetune") -> str:
    """Id of a recipe file's DAG. Runs without Airflow are stored under this name, too.

    :param shape: `finetune`, or `sweep` for the DAG of its trials.
    """
    return f"{shape}_" + re.sub(r"[^A-Za-z0-9_.]", "_", recipe_file.stem)


def group_of(stage: str) -> str:
    """The task group of a stage."""
    return next(group for group, stages in GROUPS.items() if stage in stages)


def upstream_stages(stages: Iterable[str]) -> dict[str, frozenset[str]]:
    """The direct upstream stages of each stage: its inputs, except those that are upstream of another input."""
    present = list(stages)
    inputs = {stage: {source.stage for source in STAGES[stage].inputs} & set(present) for stage in present}
    reachable: dict[str, set[str]] = {}
    for stage in present:
        reachable[stage] = inputs[stage].union(*(reachable[source] for source in inputs[stage]))
    return {
        stage: frozenset(
            source for source in sources if not any(source in reachable[other] for other in sources - {source})
        )
        for stage, sources in inputs.items()
    }
