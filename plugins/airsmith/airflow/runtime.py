"""The one place that chooses how a deployment runs its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk import BaseOperator

from airsmith.contracts.spec import StagePlan
from airsmith.recipe import Recipe
from airsmith.settings import Settings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


class Runtime(Protocol):
    """What makes tasks: the module `local_runtime` or `kubernetes_runtime`."""

    def stage_task(self, stage: StagePlan, recipe: Recipe, settings: Settings, **options: Any) -> BaseOperator:
        """The task of a stage."""

    def mapped_training(self, run_uris: Any, recipe: Recipe, settings: Settings, **options: Any) -> Any:
        """A training for each of several runs."""

    def smoke_test_task(self, settings: Settings, **options: Any) -> BaseOperator:
        """The task that checks what an endpoint serves."""

    def preflight_task(self, **options: Any) -> BaseOperator | None:
        """The task that checks the cluster before the first pod starts; None without a cluster."""


def runtime_of(settings: Settings) -> Runtime:
    """The deployment's runtime. The Kubernetes one takes half a second of imports, so it is loaded on demand."""
    if settings.uses_cluster:
        from airsmith.airflow import kubernetes_runtime

        return kubernetes_runtime
    from airsmith.airflow import local_runtime

    return local_runtime


def cluster_of(settings: Settings) -> ApiClient | None:
    """A client of the deployment's cluster; None if stages are processes of the worker's machine."""
    if not settings.uses_cluster:
        return None
    from airsmith.airflow.connections import cluster_client

    return cluster_client(settings)
