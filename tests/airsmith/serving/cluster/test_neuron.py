"""A server on Neuron: its plugin, its pod, its refusals, and the key of its compile cache."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airsmith.backends.servers import check_sharding, server_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.model_fit import check_model
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.serving.cluster.manifests import deployment
from airsmith.serving.cluster.neuron import compiled_artifact
from airsmith.serving.cluster.served_model import ServedModel, max_load_seconds
from airsmith.serving.cluster.server_pod import pod_spec
from airsmith.serving.engines import choose_local_engine
from airsmith.settings import Image
from tests.support.endpoints import served_model
from tests.support.local_endpoints import LocalHost
from tests.support.model_configs import LLAMA_8B
from tests.support.settings import CLUSTER_IMAGES, cluster_settings

TRN1 = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
TRN2 = {"name": "neuron_xla", "instance_type": "trn2.48xlarge", "devices": 16}


def neuron_model(backend: dict[str, Any] = TRN2, **recipe: Any) -> ServedModel:
    return served_model(**{"backend": backend, **recipe})


def containers(model: ServedModel) -> dict[str, dict[str, Any]]:
    pod = pod_spec(model, cluster_settings())
    return {container["name"]: container for container in (*pod["initContainers"], *pod["containers"])}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.mark.parametrize(
    ("backend", "serve", "image", "cores"),
    [
        (TRN2, {}, "vllm-neuron", 64),
        (TRN2, {"devices": 1}, "vllm-neuron", 4),
        ({"name": "neuron_native", "instance_type": "trn2.3xlarge"}, {"engine": "vllm_neuron"}, "vllm-neuron", 4),
        (TRN1, {}, "vllm-optimum-neuron", 32),
        (TRN1, {"devices": 4}, "vllm-optimum-neuron", 8),
        (TRN1, {"instance_type": "trn2.3xlarge", "devices": 1}, "vllm-neuron", 4),
        (TRN1, {"instance_type": "inf2.xlarge", "devices": 1}, "vllm-optimum-neuron", 2),
    ],
)
def test_plugin_and_cores_follow_from_the_instance_type(
    backend: dict[str, Any], serve: dict[str, Any], image: str, cores: int
):
    server = server_of(neuron_model(backend, serve=serve).recipe)
    assert (server.engine, server.image, server.tensor_parallel_size) == ("vllm_neuron", image, cores)


def test_engine_vllm_serves_a_model_of_neuron_on_cpus():
    model = neuron_model(TRN1, serve={"engine": "vllm"})
    settings = cluster_settings(backends={"neuron_xla": {"node_selector": {"pool": "trainium"}}})
    pod = pod_spec(model, settings)
    assert pod == pod_spec(served_model(), settings)
    assert pod["nodeSelector"] == {}
    assert compiled_artifact(model, settings) is None
    assert model.load_seconds == served_model().load_seconds


def test_a_server_requests_its_devices_and_selects_their_nodes():
    pod = pod_spec(neuron_model(serve={"devices": 2}), cluster_settings())
    (server,) = pod["containers"]
    for kind in ("requests", "limits"):
        assert server["resources"][kind]["aws.amazon.com/neuron"] == "2"
    assert pod["tolerations"] == [{"key": "aws.amazon.com/neuron", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn2.48xlarge"}
    assert int(server["resources"]["limits"]["memory"].removesuffix("Gi")) < 2048 / 8
    assert {"name": "shm", "mountPath": "/dev/shm"} in server["volumeMounts"]


@pytest.mark.parametrize(("devices", "scheduler"), [(1, None), (4, "neuron-scheduler"), (16, None)])
def test_part_of_a_node_is_scheduled_by_the_neuron_scheduler(devices: int, scheduler: str | None):
    assert pod_spec(neuron_model(serve={"devices": devices}), cluster_settings()).get("schedulerName") == scheduler


def test_the_logical_core_size_is_that_of_the_instance_type():
    assert variables(containers(neuron_model(TRN2))["vllm"])["NEURON_LOGICAL_NC_CONFIG"] == "2"
    assert "NEURON_LOGICAL_NC_CONFIG" not in variables(containers(neuron_model(TRN1))["vllm"])


def test_max_model_len_is_derived_from_the_dataset_or_set_by_the_recipe():
    rows = {"id": "c/d", "validation_fraction": 0.1, "max_length": 1000}
    arguments = containers(neuron_model(dataset=rows, evaluate={"max_new_tokens": 30}))["vllm"]["args"]
    assert arguments[arguments.index("--max-model-len") + 1] == "1152"
    explicit = neuron_model(serve={"engine_args": {"max_model_len": 4096}})
    arguments = containers(explicit)["vllm"]["args"]
    assert arguments.count("--max-model-len") == 1
    assert arguments[arguments.index("--max-model-len") + 1] == "4096"


def test_the_vllm_neuron_plugin_uses_the_fetched_cache():
    containers_by_name = containers(neuron_model(TRN2))
    assert list(containers_by_name) == ["fetch", "publish", "vllm"]
    folder = containers_by_name["fetch"]["command"][containers_by_name["fetch"]["command"].index("--optional") + 2]
    assert variables(containers_by_name["vllm"])["VLLM_CACHE_ROOT"].startswith(f"{folder}/")
    assert folder in containers_by_name["publish"]["command"]


def test_the_optimum_plugin_serves_an_exported_model():
    containers_by_name = containers(neuron_model(TRN1, serve={"devices": 4, "engine_args": {"max-num-seqs": 4}}))
    assert list(containers_by_name) == ["fetch", "export", "publish", "vllm"]
    export, server = containers_by_name["export"]["args"], containers_by_name["vllm"]["args"]
    assert export[-1] == server[server.index("--model") + 1]
    for exported, served in (
        ("--batch_size", "--max-num-seqs"),
        ("--sequence_length", "--max-model-len"),
        ("--tensor_parallel_size", "--tensor-parallel-size"),
    ):
        assert export[export.index(exported) + 1] == server[server.index(served) + 1]
    # Its vLLM 0.11 does not support the argument and would exit.
    assert "--shutdown-timeout" not in server
    fetched = containers_by_name["fetch"]["command"][containers_by_name["fetch"]["command"].index("--optional") + 2]
    assert variables(containers_by_name["export"])["NEURON_COMPILE_CACHE_URL"].startswith(f"{fetched}/")


def test_tokenizer_and_generation_config_are_those_of_the_tuned_model():
    server = containers(neuron_model(TRN1))["vllm"]["args"]
    for option in ("--tokenizer", "--generation-config"):
        assert server[server.index(option) + 1] == "/scratch/model"


def test_temporary_folders_are_writable():
    for name in ("export", "vllm"):
        mounts = {mount["mountPath"] for mount in containers(neuron_model(TRN1))[name]["volumeMounts"]}
        assert {"/tmp", "/var/tmp"} <= mounts


def test_the_publisher_is_a_sidecar_with_store_access_and_no_devices():
    publisher = containers(neuron_model())["publish"]
    assert publisher["restartPolicy"] == "Always"
    assert publisher["image"] == CLUSTER_IMAGES["cpu"].reference
    assert publisher["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "aws.amazon.com/neuron" not in publisher["resources"]["limits"]
    assert "envFrom" not in containers(neuron_model())["vllm"]


def test_all_startup_timeouts_allow_for_compilation():
    model = neuron_model()
    manifest = deployment(model, cluster_settings())
    server = containers(model)["vllm"]
    probe = server["startupProbe"]
    assert model.load_seconds >= 3600
    assert probe["periodSeconds"] * probe["failureThreshold"] == model.load_seconds
    assert manifest["spec"]["progressDeadlineSeconds"] == model.load_seconds
    assert max_load_seconds(model.server.engine) == model.load_seconds
    assert max_load_seconds("vllm") < model.load_seconds
    for name in ("VLLM_ENGINE_READY_TIMEOUT_S", "NEURON_LIBTORCH_COMPILATION_TIMEOUT"):
        assert int(variables(server)[name]) >= model.load_seconds


def cache_of(model: ServedModel, **settings: Any) -> str | None:
    return compiled_artifact(model, cluster_settings(**settings))


@pytest.mark.parametrize(
    "changed",
    [
        lambda: cache_of(neuron_model(serve={"devices": 1})),
        lambda: cache_of(neuron_model(serve={"engine_args": {"max-model-len": 4096}})),
        lambda: cache_of(neuron_model(serve={"engine_args": {"max-num-seqs": 4}})),
        lambda: cache_of(neuron_model(serve={"engine_args": {"block-size": 128}})),
        lambda: cache_of(neuron_model(dataset={"id": "c/d", "validation_fraction": 0.1, "max_length": 4096})),
        lambda: cache_of(neuron_model(serve={"instance_type": "trn2.3xlarge", "devices": 1})),
        lambda: cache_of(ServedModel(**{**fields_of(neuron_model()), "config": "e" * 64})),
        lambda: cache_of(ServedModel(**{**fields_of(neuron_model()), "dtype": "float32"})),
        lambda: cache_of(
            neuron_model(),
            images={**CLUSTER_IMAGES, "vllm-neuron": Image(reference="registry.example/vllm-neuron:later")},
        ),
    ],
)
def test_a_changed_graph_has_another_cache(changed: Any):
    assert changed() != cache_of(neuron_model())


@pytest.mark.parametrize(
    "unchanged",
    [
        lambda: neuron_model(name="other"),
        lambda: neuron_model(serve={"name": "other", "replicas": 3}),
        lambda: neuron_model(training={"learning_rate": 0.1}),
        lambda: neuron_model(secrets={"api_key": {"kubernetes_secret": "a/b"}}),
        lambda: neuron_model(serve={"engine": "vllm_neuron"}),
        lambda: ServedModel(**{**fields_of(neuron_model()), "artifact": "artifacts/model/eeee", "files": "f"}),
        lambda: ServedModel(**{**fields_of(neuron_model()), "revision": "another", "version": 8}),
    ],
)
def test_the_cache_does_not_depend_on_weights_or_names(unchanged: Any):
    assert cache_of(unchanged()) == cache_of(neuron_model())
    assert str(cache_of(unchanged())).startswith("artifacts/compile_cache/")


def fields_of(model: ServedModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ({"engine": "vllm_neuron", "mode": "adapter"}, "only merged weights.*set serve.mode to 'merged'"),
        ({"engine": "vllm_neuron", "load": "stream"}, "load weights from disk.*set serve.load to 'copy'"),
    ],
)
def test_a_recipe_with_unsupported_serve_fields_is_invalid(serve: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        neuron_model(serve=serve)


@pytest.mark.parametrize(
    ("backend", "serve", "message", "remedy"),
    [
        (TRN2, {"mode": "adapter"}, "only merged weights", "Set serve.mode to 'merged'."),
        (TRN2, {"load": "stream"}, "load weights from disk", "Set serve.load to 'copy'."),
        ({"name": "cuda"}, {"engine": "vllm_neuron"}, "has no Neuron devices", "Set serve.engine to 'auto'"),
        (TRN2, {"instance_type": "p5.48xlarge"}, "p5.48xlarge, which no vLLM plugin", "serve.engine to 'vllm'"),
        (
            TRN2,
            {"instance_type": "trn3.48xlarge"},
            "trn3.48xlarge, which is not in Airsmith's table",
            "Set serve.instance_type",
        ),
        (
            TRN2,
            {"instance_type": "trn2.3xlarge"},
            "16 devices, but a pod on trn2.3xlarge cannot request this number of its 1 devices",
            "serve.devices to 1,",
        ),
        (TRN1, {"devices": 6}, "6 devices, but a pod on trn1.32xlarge", "Set serve.devices to 4,"),
        (TRN2, {"engine_args": {"max-model-len": "4k"}}, "max-model-len .* is '4k'", "Use a number"),
    ],
)
def test_an_unservable_recipe_is_refused_by_the_plan(
    backend: dict[str, Any], serve: dict[str, Any], message: str, remedy: str
):
    recipe = served_model(backend=backend, serve=serve).recipe
    with pytest.raises(AirsmithError, match=message) as refused:
        make_plan(recipe)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert remedy in refused.value.hint
    make_plan(without_serving(recipe))


def without_serving(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"enabled": False})})


def test_a_server_requires_an_instance_type():
    recipe = neuron_model({"name": "neuron_xla", "devices": 1}).recipe
    with pytest.raises(AirsmithError, match=r"serve\.instance_type and backend\.instance_type are both empty"):
        server_of(recipe)


@pytest.mark.parametrize(("devices", "heads"), [(16, 32), (2, 12), (1, 30)])
def test_attention_heads_that_do_not_divide_are_refused_with_a_remedy(devices: int, heads: int):
    server = server_of(neuron_model(serve={"devices": devices}).recipe)
    with pytest.raises(AirsmithError, match=f"{heads} attention heads evenly across {devices * 4} cores") as refused:
        check_sharding({"num_attention_heads": heads}, server)
    assert refused.value.hint == {
        16: "Set serve.devices to 8.",
        2: "Set serve.devices to 1.",
        1: "Set serve.engine to 'vllm' to use CPUs.",
    }[devices]  # fmt: skip


def test_attention_heads_are_checked_before_training_if_it_is_served():
    recipe = neuron_model().recipe
    config = LLAMA_8B
    with pytest.raises(AirsmithError, match="32 attention heads evenly across 64 cores"):
        check_model(recipe, config)
    check_model(without_serving(recipe), config)
    check_model(neuron_model(serve={"devices": 8}).recipe, config)


def test_attention_heads_that_divide_are_accepted():
    check_sharding({"num_attention_heads": 64}, server_of(neuron_model().recipe))
    check_sharding({"text_config": {"num_attention_heads": 64}}, server_of(neuron_model().recipe))
    check_sharding({"num_attention_heads": 30}, server_of(neuron_model(TRN1).recipe))  # optimum-neuron pads
    check_sharding({"num_attention_heads": 30}, server_of(served_model(backend={"name": "cuda", "devices": 4}).recipe))


def test_the_local_runtime_does_not_offer_vllm_neuron(local_host: LocalHost):
    local_host.install("vllm")
    with pytest.raises(AirsmithError, match=r"vllm_neuron.*in a cluster") as refused:
        choose_local_engine(neuron_model(serve={"engine": "vllm_neuron"}).recipe.serve, local_host.python)
    assert "auto" in refused.value.hint
