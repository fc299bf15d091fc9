"""The Trainium pipeline on a cluster: every stage in a pod, optimum-neuron's own trainer and sharding on fake devices.

These tests build the image `train-neuron-xla` from `tests/neuron/image/Dockerfile`. In it, one process trains and saves
the shards of all planned ranks, and a script takes the place of the compiler.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.contracts.run import Run
from airsmith.registry import read_endpoint
from tests.cluster import trainium
from tests.cluster.dag_runs import newest_run, settings_with, training_pods, wait_for
from tests.cluster.installation import REPOSITORY, Cluster, Installation, stop_endpoint

pytestmark = pytest.mark.images("cpu", "train-cpu", "train-neuron-xla", "vllm-cpu")

RECIPE = REPOSITORY / "dags" / "recipes" / "llama-tiny-trn1.yaml"
DAG_ID = "finetune_llama_tiny_trn1"
ENDPOINT = "llama-tiny-trn1"
BEFORE_COMPILE = {"mirror_model", "mirror_dataset", "tokenize"}
TENSOR_PARALLEL, DATA_PARALLEL = 8, 4
SAVE_STEPS = 10
LOSS_BOUND = 0.1
"""Relative tolerance of the final loss after a restart without the optimizer's moments.

Measured: 0.524 undisturbed, 0.535 after a restart at step 20 of 30, which is 2 % more.
"""


@dataclass(frozen=True)
class Chain:
    """The recipe's first two runs: the compiler fails in the first one.

    :ivar failure: log of the first run.
    """

    failure: str
    failed: Run
    run: Run

    def artifact(self, stage: str) -> Artifact:
        """The output of a stage of the second run."""
        return artifact_of(self.run, stage)


def artifact_of(run: Run, stage: str) -> Artifact:
    pointer = run.pointer(stage)
    assert pointer is not None, stage
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    return artifact


@pytest.fixture(scope="module")
def node(cluster: Cluster, installation: Installation) -> Iterator[str]:
    if "train-neuron-xla" not in (installation.folder / "airsmith.yaml").read_text():
        pytest.skip("no image train-neuron-xla, see docs/images.md")
    trainium.publish_model(installation.folder / "hub", installation.folder / "tiny-llama-tp8")
    with trainium.node_with_devices(cluster) as node:
        yield node


@pytest.fixture(scope="module")
def chain(installation: Installation, node: str) -> Iterator[Chain]:
    """A run in which one graph fails although the compiler exits with 0, and a run without failure."""
    shutil.copy(RECIPE, installation.folder / "dags" / "recipes")
    environment = yaml.safe_load((installation.folder / "airsmith.yaml").read_text())["kubernetes"]["environment"]
    failing = {**environment, "STAND_IN_FAILS": "backward"}
    process = installation.start(
        "dags", "test", DAG_ID, **settings_with(installation, "failing-compiler", kubernetes__environment=failing)
    )
    process.wait()
    failed = installation.runs()[-1]
    installation.finish(installation.start("dags", "test", DAG_ID))
    yield Chain(installation.log_of(process), failed, installation.runs()[-1])
    stop_endpoint(installation.store, ENDPOINT)


@pytest.mark.core
def test_a_failed_graph_fails_the_stage_despite_exit_status_0(chain: Chain):
    assert chain.failed.statuses()["compile"].state == "failed"
    assert chain.failed.pointer("train") is None
    assert "The compiler failed on 1 graph: MODULE_backward" in chain.failure
    assert "Saved 2 compiled graphs for the next attempt" in chain.failure


@pytest.mark.core
def test_the_next_run_compiles_the_missing_graphs_and_keeps_no_lock(chain: Chain):
    cache = chain.artifact("compile")
    assert (cache.manifest.metrics["graphs"], cache.manifest.metrics["reused"]) == (3, 2)
    assert not [file.name for file in cache.manifest.files if file.name.endswith(".lock")]


@pytest.mark.core
def test_every_stage_has_an_output(chain: Chain):
    plan = chain.run.read_spec().plan
    assert [stage.stage for stage in plan.stages][3:6] == ["compile", "train", "consolidate"]
    assert (plan.parallel.tensor, plan.batch.data_parallel_size) == (TENSOR_PARALLEL, DATA_PARALLEL)
    for stage in plan.names():
        pointer = chain.run.pointer(stage)
        assert pointer is not None, stage
        assert pointer.cached == (stage in BEFORE_COMPILE), stage


@pytest.mark.core
def test_the_training_saves_every_ranks_shards_and_compiles_no_graph(chain: Chain):
    trained = chain.artifact("train")
    names = {file.name for file in trained.manifest.files}
    for rank in range(TENSOR_PARALLEL):
        assert f"adapter_shards/model/dp_rank_00_tp_rank_{rank:02d}_pp_rank_00.pt" in names
    assert trained.manifest.properties["tensor_parallel_size"] == str(TENSOR_PARALLEL)
    assert trained.manifest.metrics["graphs_compiled"] == 0
    losses = [row["loss"] for row in chain.run.metrics() if "loss" in row]
    assert losses[-1] < losses[0] / 2


@pytest.mark.core
def test_the_tuned_model_is_served(chain: Chain):
    assert read_endpoint(chain.run.store, ENDPOINT) is not None
    assert chain.artifact("evaluate").manifest.metrics


@pytest.mark.core
def test_a_second_run_reuses_every_output(installation: Installation, chain: Chain):
    log = installation.finish(installation.start("dags", "test", DAG_ID))
    again = installation.runs()[-1]
    assert again.path != chain.run.path
    assert {status.state for status in again.statuses().values()} == {"cached"}
    assert "Building pod" not in log


def test_a_killed_training_resumes_to_nearly_the_same_loss(installation: Installation, cluster: Cluster, chain: Chain):
    dag_id = installation.write_recipe("tiny-killed", same_training(SAVE_STEPS))
    others = checkpoints(installation)
    process = installation.start("dags", "test", dag_id)
    wait_for(lambda: len(checkpoints(installation) - others) == 2, process)
    (pod,) = training_pods(cluster, "tiny-killed")
    cluster.core.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=0)
    assert "This is a warm restart: the optimizer's moments start from zero" in installation.finish(process)
    run = newest_run(installation, dag_id)
    compiled, trained = run.pointer("compile"), artifact_of(run, "train")
    assert compiled is not None
    assert compiled.cached
    assert trained.manifest.metrics["warm_restarts"] == 1
    undisturbed = chain.artifact("train").manifest.metrics["train_loss"]
    assert trained.manifest.metrics["train_loss"] == pytest.approx(undisturbed, rel=LOSS_BOUND)


def same_training(save_steps: int) -> dict[str, Any]:
    """The recipe under another name: `save_steps` changes the artifact and not the graphs."""
    content = yaml.safe_load(RECIPE.read_text())
    return {
        **content,
        "training": {**content["training"], "save_steps": save_steps},
        "evaluate": {**content["evaluate"], "max_examples": 4, "max_new_tokens": 8},
        "serve": {"enabled": False},
    }


def checkpoints(installation: Installation) -> set[str]:
    """Manifests of the checkpoints in the store."""
    return {info.path for info in installation.store.list("checkpoints") if info.path.endswith("/manifest.json")}
