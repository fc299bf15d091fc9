"""The pod of a server: its containers, arguments, permissions and timeouts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airsmith.cluster.secrets import api_key_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.arguments import DRAIN_SECONDS
from airsmith.serving.cluster.served_model import ServedAdapter, ServedModel
from airsmith.serving.cluster.server_pod import DEREGISTRATION_SECONDS, pod_spec
from airsmith.settings import Settings
from tests.support.endpoints import ADAPTERS, served_model
from tests.support.settings import cluster_settings


def server(model: ServedModel, settings: Settings | None = None) -> dict[str, Any]:
    """The container of the server."""
    (container,) = pod_spec(model, settings or cluster_settings())["containers"]
    return container


def argument(model: ServedModel, option: str, settings: Settings | None = None) -> str:
    """The value of an option of vLLM."""
    arguments = server(model, settings)["args"]
    return arguments[arguments.index(option) + 1]


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_a_copied_model_is_served_with_the_name_of_the_endpoint():
    pod = pod_spec(served_model(), cluster_settings())
    (fetch,) = pod["initContainers"]
    assert fetch["command"][-3:] == ["s3://bucket/prefix", "artifacts/model/cccc", "/scratch/model"]
    assert argument(served_model(), "--model") == "/scratch/model"
    assert argument(served_model(), "--served-model-name") == "triage"
    assert argument(served_model(), "--dtype") == "bfloat16"


def test_a_vendor_image_only_runs_the_server():
    (fetch,) = pod_spec(served_model(backend={"name": "rocm"}), cluster_settings())["initContainers"]
    assert fetch["image"].startswith("registry.example/cpu@")
    assert server(served_model(backend={"name": "rocm"}))["image"].startswith("registry.example/vllm-rocm@")


def test_only_containers_that_read_the_store_have_its_credentials():
    pod = pod_spec(served_model(), cluster_settings())
    assert pod["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "envFrom" not in pod["containers"][0]
    assert "AWS_ENDPOINT_URL" not in variables(pod["containers"][0])
    assert pod_spec(served_model(), cluster_settings(store_secret=None))["initContainers"][0]["envFrom"] == []


def test_a_streamed_model_needs_no_copy_but_the_store_credentials():
    model = served_model(serve={"load": "stream"})
    pod = pod_spec(model, cluster_settings())
    assert pod["initContainers"] == []
    assert argument(model, "--model") == "s3://bucket/prefix/artifacts/model/cccc/attempt=1"
    assert argument(model, "--load-format") == "runai_streamer"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert variables(pod["containers"][0])["AWS_ENDPOINT_URL"] == "http://minio.storage:9000"
    assert variables(pod["containers"][0])["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "0"


def test_streaming_from_aws_uses_virtual_addressing():
    streamed = server(served_model(serve={"load": "stream"}), cluster_settings(environment={}))
    assert "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING" not in variables(streamed)


def test_streaming_from_a_folder_is_refused():
    folder = cluster_settings().model_copy(update={"store": "file:///models"})
    with pytest.raises(AirsmithError, match="which the store file:///models does not support") as refused:
        pod_spec(served_model(serve={"load": "stream"}), folder)
    assert refused.value.kind is ErrorKind.BAD_RECIPE


def test_adapters_are_copied_and_have_names_other_than_the_base():
    model = served_model(adapters=ADAPTERS, serve={"mode": "adapter"})
    pod = pod_spec(model, cluster_settings())
    copies = pod["initContainers"][0]["command"][-6:]
    assert dict(zip(copies[::2], copies[1::2], strict=True)) == {
        "artifacts/model/cccc": "/scratch/model",
        "artifacts/adapter/aaaa": "/scratch/adapters/ticket-triage",
        "artifacts/adapter/bbbb": "/scratch/adapters/summaries",
    }
    arguments = pod["containers"][0]["args"]
    first = arguments.index("--lora-modules") + 1
    assert [json.loads(module) for module in arguments[first : first + 2]] == [
        {"name": "ticket-triage", "path": "/scratch/adapters/ticket-triage"},
        {"name": "summaries", "path": "/scratch/adapters/summaries"},
    ]
    assert argument(model, "--served-model-name") == "triage-base"
    assert model.model_name == "ticket-triage"


@pytest.mark.parametrize(("rank", "max_rank"), [(1, "8"), (8, "8"), (24, "32"), (257, "320"), (512, "512")])
def test_max_lora_rank_fits_the_highest_rank(rank: int, max_rank: str):
    adapters = (ServedAdapter("low", "l", 1), ServedAdapter("high", "h", rank))
    assert argument(served_model(adapters=adapters), "--max-lora-rank") == max_rank


def test_the_chat_template_of_the_recipe_is_passed_only_with_adapters():
    dataset = {"id": "c/d", "validation_fraction": 0.1, "chat_template": "{{ messages }}"}
    with_adapters = served_model(adapters=ADAPTERS, dataset=dataset, serve={"mode": "adapter"})
    assert argument(with_adapters, "--chat-template") == "{{ messages }}"
    # A merged model has the template in its own files.
    assert "--chat-template" not in server(served_model(dataset=dataset))["args"]


@pytest.mark.parametrize(("backend", "size"), [("cuda", "4"), ("rocm", "4")])
def test_tensor_parallel_size_equals_the_requested_devices(backend: str, size: str):
    model = served_model(backend={"name": backend, "devices": 4})
    pod = pod_spec(model, cluster_settings())
    assert argument(model, "--tensor-parallel-size") == size
    resource = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu"}[backend]
    assert server(model)["resources"]["limits"][resource] == size
    assert server(model)["resources"]["requests"][resource] == size
    assert {"key": resource, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


@pytest.mark.parametrize(
    ("backend", "selector"), [("cuda", {"node.kubernetes.io/instance-type": "p5.48xlarge"}), ("cpu", {})]
)
def test_a_server_selects_the_instance_type_of_the_recipe(backend: str, selector: dict[str, str]):
    model = served_model(backend={"name": backend, "instance_type": "p5.48xlarge"})
    settings = cluster_settings(backends={backend: {"node_selector": {"pool": "serving"}}})
    assert pod_spec(model, settings)["nodeSelector"] == {"pool": "serving", **selector}


def test_a_server_on_cpus_requests_no_device():
    assert "--tensor-parallel-size" not in server(served_model())["args"]
    assert not any("/" in name for name in server(served_model())["resources"]["requests"])


def test_engine_args_of_the_recipe_come_last():
    model = served_model(serve={"engine_args": {"max_model_len": 64, "enforce-eager": False, "seed": 3}})
    assert server(model)["args"][-5:] == ["--max-model-len", "64", "--no-enforce-eager", "--seed", "3"]


def test_probes_allow_for_a_cold_load_and_restart_a_dead_server():
    for model in (served_model(), served_model(backend={"name": "cuda"})):
        probe = server(model)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == model.load_seconds
        assert {server(model)[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/health"}
    assert served_model(backend={"name": "cuda"}).load_seconds > served_model().load_seconds


def test_the_grace_period_allows_requests_to_finish():
    pod = pod_spec(served_model(), cluster_settings())
    assert argument(served_model(), "--shutdown-timeout") == str(DRAIN_SECONDS)
    assert pod["terminationGracePeriodSeconds"] > DEREGISTRATION_SECONDS + DRAIN_SECONDS
    # No shell between the kubelet and the server: it would keep SIGTERM to itself.
    assert pod["containers"][0]["command"][0] == "python"


@pytest.mark.parametrize(
    ("recipe", "settings", "reference"),
    [
        ({}, {}, None),
        ({}, {"api_key_secret": "endpoints"}, "endpoints/API_KEY"),
        ({"secrets": {"api_key": {"kubernetes_secret": "mine/key"}}}, {"api_key_secret": "endpoints"}, "mine/key"),
    ],
)
def test_the_api_key_is_a_secret_reference_of_the_recipe_or_the_settings(
    recipe: dict[str, Any], settings: dict[str, str], reference: str | None
):
    model, cluster = served_model(**recipe), cluster_settings(**settings)
    assert api_key_of(model.recipe, cluster) == reference
    key = variables(server(model, cluster)).get("VLLM_API_KEY")
    if reference is None:
        assert key is None
    else:
        name, _, entry = reference.partition("/")
        assert key == {"secretKeyRef": {"name": name, "key": entry}}


def test_no_container_can_access_the_hub_or_the_api_server():
    pod = pod_spec(served_model(), cluster_settings())
    for container in (*pod["initContainers"], *pod["containers"]):
        assert variables(container)["HF_HUB_OFFLINE"] == "1"
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_a_missing_image_is_named():
    with pytest.raises(AirsmithError, match="does not contain an image 'vllm-cpu'"):
        pod_spec(served_model(serve={"load": "stream"}), cluster_settings(images={}))
