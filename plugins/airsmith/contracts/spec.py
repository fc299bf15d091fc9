"""`spec.json`: the full specification of a run, which `resolve` writes and every stage reads."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from airsmith.recipe import Recipe


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StagePlan(_Frozen):
    """One stage of a run.

    :ivar backend: the backend that defines the stage's pool and time limit.
    """

    stage: str
    image: str
    backend: str = "cpu"
    needs_accelerator: bool = False
    runs_in_worker: bool = False


class BatchPlan(_Frozen):
    """How the total batch is split: total = per device × data parallel size × accumulation steps."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    data_parallel_size: int


class ParallelPlan(_Frozen):
    """How the training splits the model; data parallel × tensor × pipeline = nodes × processes per node.

    :ivar tensor: tensor parallel size: processes that each hold a part of every layer.
    :ivar pipeline: pipeline parallel size: groups of processes that each hold some of the layers.
    :ivar processes_per_node: one for each device, or for each core of a device with several.
    """

    tensor: int = 1
    pipeline: int = 1
    processes_per_node: int = 1


class Plan(_Frozen):
    """The stages and sizes that the recipe results in on its backend."""

    backend: str
    stages: tuple[StagePlan, ...]
    batch: BatchPlan
    parallel: ParallelPlan = ParallelPlan()

    def stage(self, name: str) -> StagePlan:
        """The plan of a stage."""
        return next(plan for plan in self.stages if plan.stage == name)

    def has(self, name: str) -> bool:
        """Whether the run has this stage."""
        return name in self.names()

    @property
    def training_output_stage(self) -> str:
        """The stage whose output is the complete trained model or adapter."""
        return "consolidate" if self.has("consolidate") else "train"

    def names(self) -> list[str]:
        """Names of the stages in order."""
        return [plan.stage for plan in self.stages]


class TrialResult(_Frozen):
    """The result of one trial of a sweep.

    :ivar values: the values under test, by dotted key.
    :ivar steps: number of optimizer steps.
    :ivar eval_loss: validation loss of the final weights; None if the trial failed before its first evaluation.
    :ivar train_digest: digest of the `train` output; empty if the trial failed.
    """

    name: str
    values: dict[str, Any]
    steps: int
    eval_loss: float | None
    train_digest: str
    is_winner: bool = False


class RunSpec(_Frozen):
    """The full specification of a run.

    :ivar recipe: the merged recipe with the Hub revisions pinned to commits.
    :ivar changed_fields: dotted paths of the fields that differ from the recipe file.
    :ivar bundle_version: commit of the DAG bundle, if it is versioned.
    :ivar images: digest per image name; empty if the runtime uses no images.
    :ivar toolchains: versions of Python distributions per image name.
    :ivar stop_at_step: step at which the training pauses, on the full training's schedule; None to train to the end.
    :ivar trials: results of a sweep's trials, after its winner is chosen.
    """

    dag_id: str
    run_id: str
    recipe: Recipe
    recipe_file: str
    changed_fields: tuple[str, ...] = ()
    recipe_digest: str
    plan: Plan
    airsmith_version: str
    bundle_version: str | None = None
    images: dict[str, str] = {}
    toolchains: dict[str, dict[str, str]] = {}
    stop_at_step: int | None = None
    trials: tuple[TrialResult, ...] = ()
    created_at: datetime

    def toolchain_version(self, stage: str, distribution: str) -> str:
        """Version of a distribution in a stage's image."""
        return self.toolchains.get(self.plan.stage(stage).image, {}).get(distribution, "unknown")
