"""The Kubernetes runtime's operators of endpoints: what a run has made is deployed, and proved or taken back."""

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
    """Prove what the endpoint serves; then what it served before rests, or, where the proof fails, serves again."""

    def execute(self, context: Context) -> None:
        """Run the stage, and settle the endpoint or roll it back.

        :raises StageError: of the class that says what failed.
        """
        from airsmith.serving.cluster.endpoint import settle

        try:
            super().execute(context)
        except VerificationFailedError:
            self._roll_back()
            raise
        run = Run.open(self.run_uri)
        settle(run.store, run.read_spec().recipe.endpoint_name, self.client.api_client)

    def _roll_back(self) -> None:
        """Take the requests from what the proof failed for, and from nothing that was deployed since."""
        from airsmith.serving.cluster.endpoint import roll_back

        run = Run.open(self.run_uri)
        name, deployed = run.read_spec().recipe.endpoint_name, run.pointer("deploy")
        assert deployed is not None, "the stage has read this pointer"
        try:
            roll_back(run.store, name, load_settings(), self.client.api_client, deployed.server)
        except AirsmithError as left:
            self.log.error("Endpoint %s is not rolled back: %s", name, left)


class KubernetesDeployOperator(LocalDeployOperator):
    """Serve the run's model in the cluster, applied from the worker. The endpoint outlives the task."""

    def deploy(self) -> StagePointer:
        """Apply the endpoint's objects and wait until it answers."""
        from airsmith.serving.cluster.endpoint import deploy

        settings = load_settings()
        return deploy(Run.open(self.run_uri), settings, cluster_client(settings))
