"""A server on Neuron: which plugin, what its pod has, what is refused, and what its compiled artifact is known by."""

from __future__ import annotations

from typing import Any

import pytest
from endpoints import IMAGES, served_model, settings_with
from machine import Machine
from pydantic import ValidationError

from airsmith.backends.servers import check_parts, server_of
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.model_fit import check_model
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.serving.cluster.manifests import deployment
from airsmith.serving.cluster.neuron import compiled_artifact
from airsmith.serving.cluster.served import ServedModel, longest_load
from airsmith.serving.cluster.server_pod import pod_spec
from airsmith.serving.engines import choose_engine
from airsmith.settings import Image

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
TRN1 = {"name": "neuron_xla", "instance_type": "trn1.32xlarge", "devices": 16}
TRN2 = {"name": "neuron_xla", "instance_type": "trn2.48xlarge", "devices": 16}


def neuron_model(backend: dict[str, Any] = TRN2, **recipe: Any) -> ServedModel:
    return served_model(**{"backend": backend, **recipe})


def containers(model: ServedModel) -> dict[str, dict[str, Any]]:
    pod = pod_spec(model, settings_with())
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
def test_the_plugin_and_the_cores_follow_the_servers_instances(
    backend: dict[str, Any], serve: dict[str, Any], image: str, cores: int
):
    server = server_of(neuron_model(backend, serve=serve).recipe)
    assert (server.engine, server.image, server.tensor_parallel_size) == ("vllm_neuron", image, cores)


def test_a_model_trained_on_neuron_is_served_by_cpus_where_the_recipe_says_vllm():
    model = neuron_model(TRN1, serve={"engine": "vllm"})
    settings = settings_with(backends={"neuron_xla": {"node_selector": {"pool": "trainium"}}})
    pod = pod_spec(model, settings)
    assert pod == pod_spec(served_model(), settings)
    assert pod["nodeSelector"] == {}
    assert compiled_artifact(model, settings) is None
    assert model.load_seconds == served_model().load_seconds


def test_a_server_has_its_devices_and_their_nodes():
    pod = pod_spec(neuron_model(serve={"devices": 2}), settings_with())
    (server,) = pod["containers"]
    for kind in ("requests", "limits"):
        assert server["resources"][kind]["aws.amazon.com/neuron"] == "2"
    assert pod["tolerations"] == [{"key": "aws.amazon.com/neuron", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {"node.kubernetes.io/instance-type": "trn2.48xlarge"}
    assert int(server["resources"]["limits"]["memory"].removesuffix("Gi")) < 2048 / 8
    assert {"name": "shm", "mountPath": "/dev/shm"} in server["volumeMounts"]


@pytest.mark.parametrize(("devices", "scheduler"), [(1, None), (4, "neuron-scheduler"), (16, None)])
def test_part_of_a_nodes_devices_is_found_by_the_scheduler_that_knows_neighbours(devices: int, scheduler: str | None):
    assert pod_spec(neuron_model(serve={"devices": devices}), settings_with()).get("schedulerName") == scheduler


def test_the_runtime_shows_as_many_cores_as_the_model_is_shared_out_to():
    assert variables(containers(neuron_model(TRN2))["vllm"])["NEURON_LOGICAL_NC_CONFIG"] == "2"
    assert "NEURON_LOGICAL_NC_CONFIG" not in variables(containers(neuron_model(TRN1))["vllm"])


def test_what_is_compiled_for_is_as_long_as_the_model_was_tuned_and_its_answers_or_as_the_recipe_says():
    rows = {"id": "c/d", "validation_fraction": 0.1, "max_length": 1000}
    arguments = containers(neuron_model(dataset=rows, evaluate={"max_new_tokens": 30}))["vllm"]["args"]
    assert arguments[arguments.index("--max-model-len") + 1] == "1152"
    given = neuron_model(serve={"engine_args": {"max_model_len": 4096}})
    arguments = containers(given)["vllm"]["args"]
    assert arguments.count("--max-model-len") == 1
    assert arguments[arguments.index("--max-model-len") + 1] == "4096"


def test_awss_plugin_compiles_while_it_starts_and_looks_for_its_cache_where_it_is_brought():
    found = containers(neuron_model(TRN2))
    assert list(found) == ["fetch", "publish", "vllm"]
    folder = found["fetch"]["command"][found["fetch"]["command"].index("--if-there") + 2]
    assert variables(found["vllm"])["VLLM_CACHE_ROOT"].startswith(f"{folder}/")
    assert folder in found["publish"]["command"]


def test_optimum_neurons_plugin_is_given_what_was_compiled_before_for_it_would_ask_the_hub():
    found = containers(neuron_model(TRN1, serve={"devices": 4, "engine_args": {"max-num-seqs": 4}}))
    assert list(found) == ["fetch", "export", "publish", "vllm"]
    export, server = found["export"]["args"], found["vllm"]["args"]
    assert export[-1] == server[server.index("--model") + 1]
    for exported, served in (
        ("--batch_size", "--max-num-seqs"),
        ("--sequence_length", "--max-model-len"),
        ("--tensor_parallel_size", "--tensor-parallel-size"),
    ):
        assert export[export.index(exported) + 1] == server[server.index(served) + 1]
    # Its vLLM, 0.11, does not know the argument, and would end.
    assert "--shutdown-timeout" not in server
    fetched = found["fetch"]["command"][found["fetch"]["command"].index("--if-there") + 2]
    assert variables(found["export"])["NEURON_COMPILE_CACHE_URL"].startswith(f"{fetched}/")


def test_how_an_answer_ends_is_read_from_the_tuned_model():
    server = containers(neuron_model(TRN1))["vllm"]["args"]
    for option in ("--tokenizer", "--generation-config"):
        assert server[server.index(option) + 1] == "/scratch/model"


def test_compilers_may_write_where_they_do_whatever_they_are_told():
    for name in ("export", "vllm"):
        mounts = {mount["mountPath"] for mount in containers(neuron_model(TRN1))[name]["volumeMounts"]}
        assert {"/tmp", "/var/tmp"} <= mounts


def test_the_publisher_lives_beside_the_server_with_the_store_and_without_devices():
    publisher = containers(neuron_model())["publish"]
    assert publisher["restartPolicy"] == "Always"
    assert publisher["image"] == IMAGES["cpu"].reference
    assert publisher["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "aws.amazon.com/neuron" not in publisher["resources"]["limits"]
    assert "envFrom" not in containers(neuron_model())["vllm"]


def test_there_is_time_for_compiling_everywhere_that_waits():
    model = neuron_model()
    manifest = deployment(model, settings_with())
    server = containers(model)["vllm"]
    probe = server["startupProbe"]
    assert model.load_seconds >= 3600
    assert probe["periodSeconds"] * probe["failureThreshold"] == model.load_seconds
    assert manifest["spec"]["progressDeadlineSeconds"] == model.load_seconds
    assert longest_load(model.server.engine) == model.load_seconds
    assert longest_load("vllm") < model.load_seconds
    for name in ("VLLM_ENGINE_READY_TIMEOUT_S", "NEURON_LIBTORCH_COMPILATION_TIMEOUT"):
        assert int(variables(server)[name]) >= model.load_seconds


def artifact(model: ServedModel, **settings: Any) -> str | None:
    return compiled_artifact(model, settings_with(**settings))


@pytest.mark.parametrize(
    "other",
    [
        lambda: artifact(neuron_model(serve={"devices": 1})),
        lambda: artifact(neuron_model(serve={"engine_args": {"max-model-len": 4096}})),
        lambda: artifact(neuron_model(serve={"engine_args": {"max-num-seqs": 4}})),
        lambda: artifact(neuron_model(serve={"engine_args": {"block-size": 128}})),
        lambda: artifact(neuron_model(dataset={"id": "c/d", "validation_fraction": 0.1, "max_length": 4096})),
        lambda: artifact(neuron_model(serve={"instance_type": "trn2.3xlarge", "devices": 1})),
        lambda: artifact(ServedModel(**{**vars_of(neuron_model()), "config": "e" * 64})),
        lambda: artifact(ServedModel(**{**vars_of(neuron_model()), "dtype": "float32"})),
        lambda: artifact(
            neuron_model(), images={**IMAGES, "vllm-neuron": Image(reference="registry.example/vllm-neuron:later")}
        ),
    ],
)
def test_another_graph_is_another_artifact(other: Any):
    assert other() != artifact(neuron_model())


@pytest.mark.parametrize(
    "same",
    [
        lambda: neuron_model(name="other"),
        lambda: neuron_model(serve={"name": "other", "replicas": 3}),
        lambda: neuron_model(training={"learning_rate": 0.1}),
        lambda: neuron_model(secrets={"api_key": {"kubernetes_secret": "a/b"}}),
        lambda: neuron_model(serve={"engine": "vllm_neuron"}),
        lambda: ServedModel(**{**vars_of(neuron_model()), "artifact": "artifacts/model/eeee", "files": "f"}),
        lambda: ServedModel(**{**vars_of(neuron_model()), "deployment": "another", "version": 8}),
    ],
)
def test_the_same_graph_is_the_same_artifact_whatever_the_weights_and_the_names(same: Any):
    assert artifact(same()) == artifact(neuron_model())
    assert str(artifact(same())).startswith("artifacts/compile_cache/")


def vars_of(model: ServedModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ({"engine": "vllm_neuron", "mode": "adapter"}, "merged weights alone.*set serve.mode to 'merged'"),
        ({"engine": "vllm_neuron", "load": "stream"}, "from a disk.*set serve.load to 'copy'"),
    ],
)
def test_what_neuron_cannot_serve_is_no_recipe(serve: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=f"(?s){says}"):
        neuron_model(serve=serve)


@pytest.mark.parametrize(
    ("backend", "serve", "says", "remedy"),
    [
        (TRN2, {"mode": "adapter"}, "merged weights alone", "Set serve.mode to 'merged'."),
        (TRN2, {"load": "stream"}, "from a disk", "Set serve.load to 'copy'."),
        ({"name": "cuda"}, {"engine": "vllm_neuron"}, "has no Neuron devices", "Set serve.engine to 'auto'"),
        (TRN2, {"instance_type": "p5.48xlarge"}, "p5.48xlarge, on which no plugin", "serve.engine to 'vllm'"),
        (TRN2, {"instance_type": "trn3.48xlarge"}, "table does not have", "Set serve.instance_type"),
        (
            TRN2,
            {"instance_type": "trn2.3xlarge"},
            "16 devices, but of trn2.3xlarge, which has 1",
            "serve.devices to 1,",
        ),
        (TRN1, {"devices": 6}, "6 devices, but of trn1.32xlarge", "Set serve.devices to 4,"),
        (TRN2, {"engine_args": {"max-model-len": "4k"}}, "max-model-len .* is '4k'", "Write a number"),
    ],
)
def test_what_nothing_would_serve_is_refused_before_anything_is_trained(
    backend: dict[str, Any], serve: dict[str, Any], says: str, remedy: str
):
    recipe = served_model(backend=backend, serve=serve).recipe
    with pytest.raises(AirsmithError, match=says) as refused:
        make_plan(recipe)
    assert refused.value.kind is ErrorKind.BAD_RECIPE
    assert remedy in refused.value.hint
    make_plan(unserved(recipe))


def unserved(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"enabled": False})})


def test_the_servers_instances_must_be_known():
    recipe = neuron_model({"name": "neuron_xla", "devices": 1}).recipe
    with pytest.raises(AirsmithError, match=r"Neither serve\.instance_type nor backend\.instance_type"):
        server_of(recipe)


@pytest.mark.parametrize(("devices", "heads"), [(16, 32), (2, 12), (1, 30)])
def test_heads_that_cannot_be_shared_out_are_refused_with_the_devices_that_work(devices: int, heads: int):
    server = server_of(neuron_model(serve={"devices": devices}).recipe)
    with pytest.raises(AirsmithError, match=f"{heads} attention heads to {devices * 4} cores") as refused:
        check_parts({"num_attention_heads": heads}, server)
    assert refused.value.hint == {
        16: "Set serve.devices to 8.",
        2: "Set serve.devices to 1.",
        1: "Set serve.engine to 'vllm', for plain CPUs.",
    }[devices]  # fmt: skip


def test_they_are_refused_before_the_model_is_trained_and_only_where_it_is_served():
    recipe = neuron_model().recipe
    config = {**LLAMA, "num_attention_heads": 32}
    with pytest.raises(AirsmithError, match="32 attention heads to 64 cores"):
        check_model(recipe, config)
    check_model(unserved(recipe), config)
    check_model(neuron_model(serve={"devices": 8}).recipe, config)


def test_heads_that_can_be_shared_out_are_served():
    check_parts({"num_attention_heads": 64}, server_of(neuron_model().recipe))
    check_parts({"text_config": {"num_attention_heads": 64}}, server_of(neuron_model().recipe))
    check_parts({"num_attention_heads": 30}, server_of(neuron_model(TRN1).recipe))  # optimum-neuron pads
    check_parts({"num_attention_heads": 30}, server_of(served_model(backend={"name": "cuda", "devices": 4}).recipe))


def test_a_machine_has_no_such_engine(machine: Machine):
    machine.install("vllm")
    with pytest.raises(AirsmithError, match=r"vllm_neuron.*in a cluster") as refused:
        choose_engine(neuron_model(serve={"engine": "vllm_neuron"}).recipe.serve, machine.python)
    assert "auto" in refused.value.hint
