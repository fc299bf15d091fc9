"""The tasks of a run on the worker's machine: stages and endpoints as processes."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator

from airsmith.airflow.operators.local import LocalDeployOperator, LocalStageOperator
from airsmith.contracts.spec import StagePlan
from airsmith.recipe import Recipe
from airsmith.settings import Settings


def stage_task(stage: StagePlan, recipe: Recipe, settings: Settings, **options: Any) -> BaseOperator:
    """The task of a stage.

    :param options: of any task: its id, retries, assets, place in the DAG.
    """
    if stage.runs_in_worker:
        return LocalDeployOperator(**options)
    return LocalStageOperator(stage=stage.stage, **options)


def mapped_training(run_uris: Any, recipe: Recipe, settings: Settings, **options: Any) -> Any:
    """A training for each of several runs.

    :param run_uris: the output of the task that lists them.
    """
    return LocalStageOperator.partial(stage="train", **options).expand(run_uri=run_uris)


def smoke_test_task(settings: Settings, **options: Any) -> BaseOperator:
    """The task that checks what an endpoint serves.

    :param options: of any task: its id, retries, place in the DAG.
    """
    return LocalStageOperator(stage="smoke_test", **options)


def preflight_task(**options: Any) -> None:
    """None: a process needs nothing from a cluster."""
