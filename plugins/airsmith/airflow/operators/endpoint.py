"""Operators of endpoints in a cluster: deploy a run's model, smoke-test it, and roll back if that fails."""

from __future__ import annotations

from airflow.sdk.definitions.context import Context

from airsmith.airflow.connections import cluster_client
from airsmith.airflow.operators.local import LocalDeployOperator
from airsmith.airflow.operators.pod import KubernetesStageOperator
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError
from airsmith.errors.stage_errors import VerificationFailedError
from airsmith.settings import load_settings


class KubernetesSmokeTestOperator(KubernetesStageOperator):
    """Smoke-test the endpoint. On success the previous revision is scaled to zero; on failure it serves again."""

    def execute(self, context: Context) -> None:
        """Run the stage, and settle the endpoint or roll it back.

        :raises StageError: the subclass of the error's kind.
        """
        from airsmith.serving.cluster.endpoint import retire_old_revisions

        try:
            super().execute(context)
        except VerificationFailedError:
            self._roll_back()
            raise
        run = Run.open(self.run_uri)
        retire_old_revisions(run.store, run.read_spec().recipe.endpoint_name, self.client.api_client)

    def _roll_back(self) -> None:
        """Roll back the revision that failed the test, unless another one was deployed since."""
        from airsmith.serving.cluster.endpoint import roll_back

        run = Run.open(self.run_uri)
        name, deployed = run.read_spec().recipe.endpoint_name, run.pointer("deploy")
        assert deployed is not None, "the stage has read this pointer"
        try:
            roll_back(run.store, name, load_settings(), self.client.api_client, deployed.revision)
        except AirsmithError as error:
            self.log.error("Endpoint %s was not rolled back: %s", name, error)


class KubernetesDeployOperator(LocalDeployOperator):
    """Serve the run's model in the cluster. The worker applies the objects; the endpoint outlives the task."""

    def deploy(self) -> StagePointer:
        """Apply the endpoint's objects and wait until it is ready."""
        from airsmith.serving.cluster.endpoint import deploy

        settings = load_settings()
        return deploy(Run.open(self.run_uri), settings, cluster_client(settings))
