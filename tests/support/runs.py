"""Runs, artifacts and checkpoints in a store, as the stages leave them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airsmith.artifacts.layout import artifact_folder, checkpoint_folder, run_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output, look_up_output
from airsmith.contracts.digests import checkpoint_key, recipe_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, TOKENIZER
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from tests.support.recipes import pinned_recipe

DAG_ID = "finetune_tickets"
CONTENT = {"weights": b"weights", "more/config.json": b"{}"}


def new_spec(recipe: Recipe, run_id: str = "run-1", dag_id: str = DAG_ID, **fields: Any) -> RunSpec:
    """The spec that `resolve` writes for a recipe.

    :param fields: replace the fields of the same name.
    """
    resolved = {
        "recipe": recipe,
        "recipe_file": f"{recipe.name}.yaml",
        "recipe_digest": recipe_digest(recipe),
        "airsmith_version": "0",
        "created_at": datetime.now(timezone.utc),
        **fields,
    }
    if "plan" not in resolved:
        resolved["plan"] = make_plan(recipe)
    return RunSpec(dag_id=dag_id, run_id=run_id, **resolved)


def new_run(
    store: Store, run_id: str = "run-1", recipe: Recipe | None = None, dag_id: str = DAG_ID, **fields: Any
) -> Run:
    """A resolved run: it has a spec, and no stage has started."""
    run = Run(store, run_folder(dag_id, run_id))
    run.write_spec(new_spec(recipe or pinned_recipe(), run_id, dag_id, **fields))
    return run


def finish_stages(run: Run, *stages: str) -> None:
    """Publish the outputs of stages and write their pointers."""
    for stage in stages:
        output = look_up_output(run, run.read_spec(), stage)
        publish_artifact(run.store, output.type, output.digest)
        run.write_pointer(look_up_output(run, run.read_spec(), stage).pointer(stage))


def finish_stage_with(run: Run, stage: str, output: Artifact | Output) -> None:
    """Record an output as the stage's own."""
    found = output if isinstance(output, Output) else Output.of_artifact(output)
    StageRecord.start(stage, run).finish(found, cached=False)


def point_stage(run: Run, stage: str, folder: str, **fields: Any) -> None:
    """Write a stage's pointer to an artifact, whether or not the stage could have made it."""
    kind, digest = folder.split("/")[1:3]
    known = {"cached": False, "started_at": datetime.now(timezone.utc), "seconds": 1, **fields}
    run.write_pointer(StagePointer(stage=stage, type=kind, digest=digest, location=folder, **known))


def publish_artifact(
    store: Store, kind: str, digest: str, files: Mapping[str, bytes] | Path = CONTENT, folder: str | None = None
) -> Artifact:
    """A published artifact, of no run.

    :param files: names and contents, or a folder.
    :param folder: where it lies; by default where artifacts of its type and digest lie.
    """
    folder = folder or artifact_folder(kind, digest)
    with write_artifact(store, folder, type=kind, digest=digest, inputs={}, versions={}) as writer:
        if isinstance(files, Path):
            writer.add_folder(files)
        else:
            for name, content in files.items():
                writer.add_bytes(name, content)
        return writer.publish(properties={TOKENIZER: "t"})


def write_unpublished(store: Store, folder: str, attempt: str = "attempt=lost") -> list[str]:
    """Write the files of an artifact without its manifest, as a writer that dies leaves it.

    :returns: their paths.
    """
    paths = [f"{folder}/{attempt}/{name}" for name in CONTENT]
    for path in paths:
        store.write(path, b"half")
    return paths


def train_key(run: Run) -> str:
    """The key of a run's training checkpoints."""
    return checkpoint_key(STAGES["train"], run.read_spec(), run.input_pointers(STAGES["train"]))


def publish_checkpoint(store: Store, key: str, step: int) -> str:
    """A published checkpoint.

    :returns: its folder.
    """
    return publish_artifact(store, "checkpoint", key, folder=checkpoint_folder(key, step)).folder
