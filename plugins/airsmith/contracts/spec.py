"""`spec.json`: everything a run was told, written once by `resolve` and read by every stage with the same class."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from airsmith.recipe import Recipe


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StagePlan(_Frozen):
    """One stage of a run: its image, the backend whose pool and time limit it has, whether it holds an accelerator."""

    stage: str
    image: str
    backend: str = "cpu"
    needs_accelerator: bool = False
    runs_in_worker: bool = False


class BatchPlan(_Frozen):
    """How the recipe's total batch is spread: total = per device × devices × accumulation."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    data_parallel_size: int


class ParallelPlan(_Frozen):
    """How a training's processes share the model; data parallel × tensor × pipeline = nodes × processes per node.

    :ivar tensor: processes that each hold a part of every layer.
    :ivar pipeline: groups of processes that each hold some of the layers.
    :ivar processes_per_node: one for each device, or for each core of a device that has several.
    """

    tensor: int = 1
    pipeline: int = 1
    processes_per_node: int = 1


class Plan(_Frozen):
    """What the recipe means on its backend."""

    backend: str
    stages: tuple[StagePlan, ...]
    batch: BatchPlan
    parallel: ParallelPlan = ParallelPlan()

    def stage(self, name: str) -> StagePlan:
        """The plan of one stage."""
        return next(plan for plan in self.stages if plan.stage == name)

    def has(self, name: str) -> bool:
        """Whether the run has a stage of this name."""
        return name in self.names()

    @property
    def trained_by(self) -> str:
        """The stage whose output is what was trained, whole."""
        return "consolidate" if self.has("consolidate") else "train"

    def names(self) -> list[str]:
        """The stages in order."""
        return [plan.stage for plan in self.stages]


class TrialResult(_Frozen):
    """What became of one trial of a sweep.

    :ivar values: what it set, by dotted key.
    :ivar steps: optimizer steps that it was trained for.
    :ivar eval_loss: validation loss of the weights that it ended with; None where it failed before the first.
    :ivar train_digest: of what it has trained; empty where it failed.
    """

    name: str
    values: dict[str, Any]
    steps: int
    eval_loss: float | None
    train_digest: str
    is_winner: bool = False


class RunSpec(_Frozen):
    """A run, fully decided.

    :ivar recipe: the merged recipe with the Hub revisions pinned to commits.
    :ivar changed_fields: dotted paths that differ from the recipe's file.
    :ivar bundle_version: commit of the DAG bundle, where the bundle has one.
    :ivar images: digest per image name, where the runtime has images.
    :ivar toolchains: versions of distributions per image name.
    :ivar stop_at_step: where the training pauses, with the schedule of the whole; at its end when None.
    :ivar trials: of a sweep, once its winner is known.
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
        """Version of a distribution in the image that runs a stage."""
        return self.toolchains.get(self.plan.stage(stage).image, {}).get(distribution, "unknown")
