"""What a recipe's DAG is called, the edges between its stages, and the groups that the graph shows them in."""

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
"""Every stage that any backend may ask for, by what a person would call that part of the work."""


def dag_id_of(recipe_file: Path, shape: str = "finetune") -> str:
    """Id of the DAG that a recipe file becomes; without Airflow too, its runs are kept under this name.

    :param shape: `finetune`, or `sweep` for the DAG of its trials.
    """
    return f"{shape}_" + re.sub(r"[^A-Za-z0-9_.]", "_", recipe_file.stem)


def group_of(stage: str) -> str:
    """The group that shows a stage."""
    return next(group for group, stages in GROUPS.items() if stage in stages)


def upstream_stages(stages: Iterable[str]) -> dict[str, frozenset[str]]:
    """What each stage waits for directly: its inputs, without those that another input waits for already."""
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
