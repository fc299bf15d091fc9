"""The pod that serves: what it holds, may do, is told and is given time for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from endpoints import ADAPTERS, served_model, settings_with

from airsmith.cluster.secrets import api_key_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.serving.cluster.arguments import DRAIN_SECONDS
from airsmith.serving.cluster.served import ServedAdapter, ServedModel
from airsmith.serving.cluster.server_pod import DEREGISTRATION_SECONDS, pod_spec
from airsmith.settings import Settings


def server(model: ServedModel, settings: Settings | None = None) -> dict[str, Any]:
    """The container that serves."""
    (container,) = pod_spec(model, settings or settings_with())["containers"]
    return container


def told(model: ServedModel, option: str, settings: Settings | None = None) -> str:
    """What vLLM is told by an option."""
    arguments = server(model, settings)["args"]
    return arguments[arguments.index(option) + 1]


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_a_copied_model_is_fetched_and_served_under_the_endpoints_name():
    pod = pod_spec(served_model(), settings_with())
    (fetch,) = pod["initContainers"]
    assert fetch["command"][-3:] == ["s3://bucket/prefix", "artifacts/model/cccc", "/scratch/model"]
    assert told(served_model(), "--model") == "/scratch/model"
    assert told(served_model(), "--served-model-name") == "triage"
    assert told(served_model(), "--dtype") == "bfloat16"


def test_a_vendors_image_needs_nothing_of_ours():
    (fetch,) = pod_spec(served_model(backend={"name": "rocm"}), settings_with())["initContainers"]
    assert fetch["image"].startswith("registry.example/cpu@")
    assert server(served_model(backend={"name": "rocm"}))["image"].startswith("registry.example/vllm-rocm@")


def test_only_what_reads_the_store_has_its_credentials():
    pod = pod_spec(served_model(), settings_with())
    assert pod["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "envFrom" not in pod["containers"][0]
    assert "AWS_ENDPOINT_URL" not in variables(pod["containers"][0])
    assert pod_spec(served_model(), settings_with(store_secret=None))["initContainers"][0]["envFrom"] == []


def test_a_streamed_model_needs_no_disk_but_the_stores_credentials():
    model = served_model(serve={"load": "stream"})
    pod = pod_spec(model, settings_with())
    assert pod["initContainers"] == []
    assert told(model, "--model") == "s3://bucket/prefix/artifacts/model/cccc/attempt=1"
    assert told(model, "--load-format") == "runai_streamer"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert variables(pod["containers"][0])["AWS_ENDPOINT_URL"] == "http://minio.storage:9000"
    assert variables(pod["containers"][0])["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "0"


def test_amazons_own_store_is_streamed_from_as_amazon_wants_it():
    streamed = server(served_model(serve={"load": "stream"}), settings_with(environment={}))
    assert "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING" not in variables(streamed)


def test_nothing_streams_from_a_folder():
    folder = settings_with().model_copy(update={"store": "file:///models"})
    with pytest.raises(AirsmithError, match="nothing streams from file:///models") as refused:
        pod_spec(served_model(serve={"load": "stream"}), folder)
    assert refused.value.kind is ErrorKind.BAD_RECIPE


def test_adapters_are_copied_beside_their_base_and_named_apart_from_it():
    model = served_model(adapters=ADAPTERS, serve={"mode": "adapter"})
    pod = pod_spec(model, settings_with())
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
    assert told(model, "--served-model-name") == "triage-base"
    assert model.model_name == "ticket-triage"


@pytest.mark.parametrize(("rank", "room"), [(1, "8"), (8, "8"), (24, "32"), (257, "320"), (512, "512")])
def test_there_is_room_for_the_highest_rank(rank: int, room: str):
    adapters = (ServedAdapter("low", "l", 1), ServedAdapter("high", "h", rank))
    assert told(served_model(adapters=adapters), "--max-lora-rank") == room


def test_the_chat_template_of_the_recipe_goes_with_adapters_alone():
    dataset = {"id": "c/d", "validation_fraction": 0.1, "chat_template": "{{ messages }}"}
    beside = served_model(adapters=ADAPTERS, dataset=dataset, serve={"mode": "adapter"})
    assert told(beside, "--chat-template") == "{{ messages }}"
    # A merged model has it in its own files.
    assert "--chat-template" not in server(served_model(dataset=dataset))["args"]


@pytest.mark.parametrize(("backend", "size"), [("cuda", "4"), ("rocm", "4")])
def test_a_model_spreads_over_the_devices_that_its_pod_asks_for(backend: str, size: str):
    model = served_model(backend={"name": backend, "devices": 4})
    pod = pod_spec(model, settings_with())
    assert told(model, "--tensor-parallel-size") == size
    resource = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu"}[backend]
    assert server(model)["resources"]["limits"][resource] == size
    assert server(model)["resources"]["requests"][resource] == size
    assert {"key": resource, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


@pytest.mark.parametrize(
    ("backend", "selector"), [("cuda", {"node.kubernetes.io/instance-type": "p5.48xlarge"}), ("cpu", {})]
)
def test_a_server_goes_where_the_devices_of_its_recipe_are(backend: str, selector: dict[str, str]):
    model = served_model(backend={"name": backend, "instance_type": "p5.48xlarge"})
    settings = settings_with(backends={backend: {"node_selector": {"pool": "serving"}}})
    assert pod_spec(model, settings)["nodeSelector"] == {"pool": "serving", **selector}


def test_plain_cpus_ask_for_no_device():
    assert "--tensor-parallel-size" not in server(served_model())["args"]
    assert not any("/" in name for name in server(served_model())["resources"]["requests"])


def test_the_recipes_arguments_come_last():
    model = served_model(serve={"engine_args": {"max_model_len": 64, "enforce-eager": False, "seed": 3}})
    assert server(model)["args"][-5:] == ["--max-model-len", "64", "--no-enforce-eager", "--seed", "3"]


def test_a_cold_load_has_its_time_and_a_dead_server_is_restarted():
    for model in (served_model(), served_model(backend={"name": "cuda"})):
        probe = server(model)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == model.load_seconds
        assert {server(model)[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/health"}
    assert served_model(backend={"name": "cuda"}).load_seconds > served_model().load_seconds


def test_requests_in_flight_end_before_the_pod_does():
    pod = pod_spec(served_model(), settings_with())
    assert told(served_model(), "--shutdown-timeout") == str(DRAIN_SECONDS)
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
def test_the_key_is_a_reference_to_the_recipes_secret_or_the_deployments(
    recipe: dict[str, Any], settings: dict[str, str], reference: str | None
):
    model, chosen = served_model(**recipe), settings_with(**settings)
    assert api_key_of(model.recipe, chosen) == reference
    key = variables(server(model, chosen)).get("VLLM_API_KEY")
    if reference is None:
        assert key is None
    else:
        name, _, entry = reference.partition("/")
        assert key == {"secretKeyRef": {"name": name, "key": entry}}


def test_no_server_may_reach_the_hub_or_the_api_server():
    pod = pod_spec(served_model(), settings_with())
    for container in (*pod["initContainers"], *pod["containers"]):
        assert variables(container)["HF_HUB_OFFLINE"] == "1"
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_an_image_that_was_not_built_is_named():
    with pytest.raises(AirsmithError, match="no image 'vllm-cpu'"):
        pod_spec(served_model(serve={"load": "stream"}), settings_with(images={}))
