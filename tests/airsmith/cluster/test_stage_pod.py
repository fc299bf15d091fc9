"""The pods of stages, for every backend.

AIRSMITH_TEST_GOLDEN=write updates the golden files after an intended change.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from airsmith.contracts.stages import TRAINING
from airsmith.errors import AirsmithError
from airsmith.settings import KubernetesSettings
from tests.support.pods import BACKENDS, SETTINGS, cluster_spec, stage_pods

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_pods_match_the_golden_file(backend: str) -> None:
    pods = stage_pods(cluster_spec(backend=BACKENDS[backend]))
    file = GOLDEN / f"{backend}.yaml"
    if os.environ.get("AIRSMITH_TEST_GOLDEN") == "write":
        file.write_text(yaml.safe_dump_all(pods.values(), sort_keys=True), encoding="utf-8")
    assert list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) == list(pods.values())


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_only_stages_that_compute_on_a_device_request_one(backend: str) -> None:
    for stage, pod in stage_pods(cluster_spec(backend=BACKENDS[backend])).items():
        requests_device = any("/" in name for name in pod["spec"]["containers"][0]["resources"]["requests"])
        device_stages = ("compile", "train") if backend.startswith("trn") else ("train", "evaluate")
        assert requests_device == (backend != "cpu" and stage in device_stages), stage


def test_only_mirror_pods_have_the_hub_token_and_only_by_reference() -> None:
    for stage, pod in stage_pods(cluster_spec()).items():
        variables = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
        assert ("HF_TOKEN" in variables) == stage.startswith("mirror_"), stage
        assert ("HF_HUB_OFFLINE" in variables) != stage.startswith("mirror_"), stage
        if "HF_TOKEN" in variables:
            assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}


def test_training_pods_are_not_disrupted_and_have_a_long_grace_period() -> None:
    for stage, pod in stage_pods(cluster_spec()).items():
        annotations = pod["metadata"]["annotations"]
        assert ("karpenter.sh/do-not-disrupt" in annotations) == (stage in TRAINING)
        assert pod["spec"]["terminationGracePeriodSeconds"] == (120 if stage in TRAINING else 30)


def test_a_token_in_an_airflow_connection_is_refused_on_kubernetes() -> None:
    with pytest.raises(AirsmithError, match=r"secrets\.hf_token.*kubernetes_secret"):
        stage_pods(cluster_spec(secrets={"hf_token": {"airflow_connection": "hub"}}))


def test_a_missing_image_is_named() -> None:
    with pytest.raises(AirsmithError, match="does not contain an image 'cpu'"):
        stage_pods(cluster_spec(), SETTINGS.model_copy(update={"kubernetes": KubernetesSettings()}))
