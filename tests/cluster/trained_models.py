"""Finished runs for endpoints of the cluster: a base model and two adapters, each also merged."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import kubernetes
import yaml

from airsmith.artifacts.layout import artifact_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.cache import Output
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import ArtifactType
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.settings import Image, KubernetesSettings, Settings
from tests.cluster.installation import BUCKET, REPOSITORY, STAGES_PYTHON, STORE_ENDPOINT_IN_PODS, Cluster


@dataclass(frozen=True)
class TrainedModels:
    """A store with models, and the settings to serve them.

    :param models: output folder of `build_models.py`.
    :param client: a client with the rights of Airflow's worker.
    """

    folder: Path
    models: Path
    store: Store
    settings: Settings
    cluster: Cluster
    client: kubernetes.client.ApiClient

    def finished_run(self, adapter: str, *, merged: str = "", **recipe: Any) -> Run:
        """A run in which all stages before `deploy` are done.

        :param merged: digest of the merged model, to make it a separate artifact.
        """
        resolved = Recipe.model_validate(
            {
                "name": adapter,
                "model": {"id": "tests/base", "revision": "a" * 40},
                "dataset": {"id": "tests/rows", "revision": "b" * 40, "validation_fraction": 0.1},
                "method": {"r": 4},
                **recipe,
            }
        )
        run = Run(self.store, f"runs/tests/{adapter}-{uuid.uuid4().hex[:8]}")
        run.write_spec(
            RunSpec(
                dag_id="tests", run_id=adapter, recipe=resolved, recipe_file=f"{adapter}.yaml",
                recipe_digest=recipe_digest(resolved), plan=make_plan(resolved), airsmith_version="0",
                created_at=datetime.now(timezone.utc),
            )
        )  # fmt: skip
        outputs = {
            "mirror_model": self._publish(ArtifactType.BASE_MODEL, "base", {"": "base"}),
            "train": self._publish(ArtifactType.ADAPTER, adapter, {"": adapter}),
            "merge": self._publish(ArtifactType.MODEL, merged or adapter, {"": f"merged-{adapter}"}),
            "evaluate": self._publish(ArtifactType.EVALUATION, adapter, {"fixed_prompts.json": f"{adapter}.json"}),
        }
        for stage, artifact in outputs.items():
            StageRecord.start(stage, run).finish(Output.of_artifact(artifact), cached=False)
        return run

    def expected_answers(self) -> dict[str, dict[str, str]]:
        """The answers of base and adapters, by model and question."""
        return json.loads((self.models / "answers.json").read_text())

    def smoke_pod(self, run: Run) -> kubernetes.client.V1Pod:
        """Run the smoke test of a run's endpoint in its pod; return the finished pod."""
        pod = stage_pod("smoke_test", run, run.read_spec(), "0" * 64, self.settings)
        core, namespace = self.cluster.core, self.cluster.namespace
        core.create_namespaced_pod(namespace, pod)
        watch = kubernetes.watch.Watch()
        selector = f"metadata.name={pod.metadata.name}"
        for event in watch.stream(core.list_namespaced_pod, namespace, field_selector=selector, timeout_seconds=120):
            if event["object"].status.phase in ("Succeeded", "Failed"):
                return event["object"]
        raise AssertionError(f"{pod.metadata.name} did not finish")

    def environment(self) -> dict[str, str]:
        """The environment of `airsmith …` outside the cluster, in addition to KUBECONFIG."""
        file = self.folder / "settings.yaml"
        file.write_text(yaml.safe_dump({"runtime": "kubernetes", "store": self.store.uri}))
        known = {name: value for name, value in os.environ.items() if not name.startswith("AIRSMITH")}
        return {**known, "AIRSMITH_SETTINGS": str(file)}

    def _publish(self, kind: str, digest: str, files: Mapping[str, str]) -> Artifact:
        """Publish files as an artifact.

        :param files: path below `models` by name in the artifact; an empty name adds a folder's content.
        """
        folder = artifact_folder(kind, digest)
        published = open_artifact(self.store, folder)
        if published is not None:
            return published
        with write_artifact(self.store, folder, type=kind, digest=digest, inputs={}, versions={}) as writer:
            for name, source in files.items():
                if name:
                    writer.add_file(name, self.models / source)
                else:
                    writer.add_folder(self.models / source)
            return writer.publish()


@contextmanager
def trained_models(
    folder: Path, cluster: Cluster, images: Path, client: kubernetes.client.ApiClient
) -> Iterator[TrainedModels]:
    """Build the models; delete their store at the end.

    :param images: settings file that names the images.
    """
    models_folder = folder / "models"
    subprocess.run(
        [STAGES_PYTHON, Path(__file__).parent / "build_models.py", models_folder],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    known = yaml.safe_load(images.read_text())["kubernetes"]["images"]
    settings = Settings(
        runtime="kubernetes",
        store=f"s3://{BUCKET}/test-{uuid.uuid4().hex[:8]}",
        team="tests",
        kubernetes=KubernetesSettings(
            namespace=cluster.namespace,
            images={name: Image.model_validate(image) for name, image in known.items()},
            store_secret="store",
            scratch_size="1Gi",
            environment={"AWS_ENDPOINT_URL": STORE_ENDPOINT_IN_PODS, "AWS_REGION": "us-east-1"},
        ),
    )
    models = TrainedModels(folder, models_folder, Store.open(settings.store), settings, cluster, client)
    try:
        yield models
    finally:
        for info in list(models.store.list("")):
            models.store.delete(info.path)
