"""The tasks of a run on a cluster: stages as pods, trainings on several nodes as jobs, endpoints as Deployments."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator

from airsmith.airflow.operators.endpoint import KubernetesDeployOperator, KubernetesSmokeTestOperator
from airsmith.airflow.operators.job import TrainingJobOperator
from airsmith.airflow.operators.pod import KubernetesStageOperator
from airsmith.airflow.operators.preflight import PreflightOperator
from airsmith.contracts.spec import StagePlan
from airsmith.contracts.stages import TRAINING
from airsmith.recipe import Recipe
from airsmith.settings import Settings


def stage_task(stage: StagePlan, recipe: Recipe, settings: Settings, **options: Any) -> BaseOperator:
    """The task of a stage on a cluster.

    :param options: of any task: its id, retries, assets, place in the DAG.
    """
    if stage.runs_in_worker:
        return KubernetesDeployOperator(**options)
    if stage.stage == "smoke_test":
        return smoke_test_task(settings, **options)
    in_triggerer = stage.stage in TRAINING
    if in_triggerer and recipe.backend.nodes > 1:
        return TrainingJobOperator(stage=stage.stage, **job_options(recipe, settings), **options)
    return KubernetesStageOperator(
        stage=stage.stage, deferrable=in_triggerer, **pod_options(settings, stage.backend), **options
    )


def mapped_training(run_uris: Any, recipe: Recipe, settings: Settings, **options: Any) -> Any:
    """A training in a pod, or on several nodes, for each of several runs.

    :param run_uris: the output of the task that knows them.
    """
    if recipe.backend.nodes > 1:
        trainings = TrainingJobOperator.partial(stage="train", **job_options(recipe, settings), **options)
    else:
        backend = recipe.backend.name
        trainings = KubernetesStageOperator.partial(
            stage="train", deferrable=True, **pod_options(settings, backend), **options
        )
    return trainings.expand(run_uri=run_uris)


def pod_options(settings: Settings, backend: str) -> dict[str, Any]:
    """What the deployment decides about the pods of a backend."""
    startup_seconds = settings.backend(backend).startup_timeout_seconds
    return {
        "namespace": settings.kubernetes.namespace,
        "kubernetes_conn_id": settings.kubernetes.connection,
        "startup_timeout_seconds": startup_seconds,
        "schedule_timeout_seconds": startup_seconds,
    }


def job_options(recipe: Recipe, settings: Settings) -> dict[str, Any]:
    """What recipe and deployment decide about a training on several nodes."""
    return {
        "engine": recipe.backend.job,
        "nodes": recipe.backend.nodes,
        "namespace": settings.kubernetes.namespace,
        "kubernetes_conn_id": settings.kubernetes.connection,
        "startup_timeout_seconds": settings.backend(recipe.backend.name).startup_timeout_seconds,
    }


def smoke_test_task(settings: Settings, **options: Any) -> BaseOperator:
    """The task that checks what an endpoint serves.

    :param options: of any task: its id, retries, place in the DAG.
    """
    return KubernetesSmokeTestOperator(stage="smoke_test", **pod_options(settings, "cpu"), **options)


def preflight_task(**options: Any) -> BaseOperator:
    """The task that checks what could stop the run's pods.

    :param options: of any task: its id, retries, place in the DAG.
    """
    return PreflightOperator(**options)
