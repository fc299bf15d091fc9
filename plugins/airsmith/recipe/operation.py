"""Where a recipe runs, how its result is judged, and where it is served."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field

BackendName = Literal["cpu", "cuda", "rocm", "neuron_xla", "neuron_native"]
JobName = Literal["jobset", "trainjob", "rayjob"]
NEURON_BACKENDS: tuple[BackendName, ...] = ("neuron_xla", "neuron_native")
EngineName = Literal["auto", "vllm", "vllm_neuron", "transformers"]

KUBERNETES_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
KUBERNETES_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes that vLLM makes room for when it serves adapters beside their base (`vllm.config.lora.MaxLoRARanks`)."""

_OWN = "Airsmith sets it"
_NOT_ENGINE_ARGS = {
    **dict.fromkeys(("model", "served-model-name", "host", "port", "lora-modules", "shutdown-timeout"), _OWN),
    "trust-remote-code": "use model.trust_remote_code",
    "enable-lora": "use serve.mode",
    "tensor-parallel-size": "use serve.devices, else backend.devices counts",
    "api-key": "name a Secret in secrets.api_key; a recipe holds no secrets",
    "hf-token": "use secrets.hf_token; a recipe holds no secrets",
}


class Resources(RecipeSection):
    """What a pod asks for, where the backend's own choice does not fit."""

    cpu: str | None = recipe_field(
        None, description="CPU request, a Kubernetes quantity.", form="absent", pattern=KUBERNETES_QUANTITY
    )
    memory: str | None = recipe_field(
        None, description="Memory request and limit, a Kubernetes quantity.", form="absent", pattern=KUBERNETES_QUANTITY
    )
    ephemeral_storage: str | None = recipe_field(
        None, description="Scratch disk request, a Kubernetes quantity.", form="absent", pattern=KUBERNETES_QUANTITY
    )
    shared_memory: str | None = recipe_field(
        None,
        description="Most that `/dev/shm` may hold, a Kubernetes quantity; it counts as memory.",
        form="absent",
        pattern=KUBERNETES_QUANTITY,
    )


class Backend(RecipeSection):
    """The accelerator, and how much of it. Fixed when the DAG is parsed."""

    name: BackendName = recipe_field("cpu", description="Accelerator family.", form="absent")
    instance_type: str | None = recipe_field(
        None, description="Cloud instance type, for example `p5.48xlarge`; any that fits when empty.", form="absent"
    )
    devices: int = recipe_field(1, description="Devices per node that train together.", form="absent", ge=1, le=128)
    nodes: int = recipe_field(1, description="Nodes that train together.", form="absent", ge=1, le=1024)
    tensor_parallel_size: int | None = recipe_field(
        None,
        description="Processes that share every layer (`neuron_xla`); by the instance type when empty.",
        form="absent",
        ge=1,
        le=64,
    )
    pipeline_parallel_size: int | None = recipe_field(
        None,
        description="Groups of processes that have some of the layers each (`neuron_xla`); 1 when empty.",
        form="absent",
        ge=1,
        le=64,
    )
    job: JobName = recipe_field(
        "jobset",
        description="What starts a training's pods on several nodes of a cluster, which must have it: `jobset` "
        "(JobSet), `trainjob` (Kubeflow Trainer) or `rayjob` (KubeRay).",
        form="absent",
    )
    resources: Resources = recipe_field(
        description="Resources of the training pod, of each on several nodes.",
        default_factory=Resources,
        form="absent",
    )
    queue: str | None = recipe_field(
        None, description="Kueue LocalQueue that admits the training pod.", form="absent", pattern=KUBERNETES_NAME
    )
    priority: str | None = recipe_field(
        None, description="Kueue WorkloadPriorityClass of the training pod.", form="absent", pattern=KUBERNETES_NAME
    )

    @model_validator(mode="after")
    def _priority_needs_a_queue(self) -> Self:
        if self.priority is not None and self.queue is None:
            raise ValueError(
                "backend.priority orders a queue, but backend.queue is empty: "
                "set backend.queue or remove backend.priority"
            )
        return self


class Evaluate(RecipeSection):
    """How base and tuned model are compared on the validation split."""

    max_examples: int | None = recipe_field(
        200, description="Most validation examples that are answered; all when empty.", unit="examples", ge=1
    )
    max_new_tokens: int = recipe_field(64, description="Longest answer.", unit="tokens", ge=1, le=32_768)
    backend: BackendName | None = recipe_field(
        None,
        description="Accelerator family for the evaluation; when empty the training's, or `cpu` where that is Neuron.",
        form="absent",
    )
    resources: Resources = recipe_field(
        description="Resources of the evaluation's pod, which loads base and tuned model one after the other.",
        default_factory=Resources,
        form="absent",
    )


class Serve(RecipeSection):
    """The endpoint that the tuned model is deployed to."""

    enabled: bool = recipe_field(True, description="Whether the run ends with a served model.", form="absent")
    name: str | None = recipe_field(
        None, description="Endpoint's name; the recipe's when empty.", pattern=KUBERNETES_NAME
    )
    engine: EngineName = recipe_field(
        "auto",
        description="Inference server; `auto` is vLLM where it is installed, and in a cluster. There, on a Neuron "
        "backend, it is `vllm_neuron`, and `vllm` serves on plain CPUs.",
        labels={
            "auto": "auto: vLLM where it is installed",
            "vllm": "vLLM",
            "vllm_neuron": "vLLM on AWS Neuron devices",
            "transformers": "transformers serve: small models, no GPU needed",
        },
    )
    mode: Literal["merged", "adapter"] = recipe_field(
        "merged",
        description="Serve the merged weights, or the base with the adapter beside it (vLLM only).",
        labels={"merged": "merged: one model", "adapter": "adapter: the base with the adapter beside it, vLLM only"},
    )
    load: Literal["copy", "stream"] = recipe_field(
        "copy",
        description="How a server in a cluster gets the merged model: copied to its disk, every file held against its "
        "hash, or streamed from an `s3://` store into memory, which takes no disk and trusts the store.",
        labels={
            "copy": "copy: to the server's disk, every file verified",
            "stream": "stream: from the store into memory, no disk needed",
        },
        form="absent",
    )
    engine_args: dict[str, bool | int | float | str] = recipe_field(
        description="Further arguments of vLLM by their names, for example `max-model-len: 4096`; a switch is true or "
        "false. Other engines take none.",
        default_factory=dict,
        form="absent",
    )
    instance_type: str | None = recipe_field(
        None,
        description="Cloud instance type of the servers, for example `inf2.xlarge`; the training's when empty.",
        form="absent",
    )
    devices: int | None = recipe_field(
        None,
        description="Devices of one server in a cluster; as many as the training has per node when empty.",
        form="absent",
        ge=1,
        le=128,
    )
    replicas: int = recipe_field(1, description="Servers of the endpoint in a cluster.", form="absent", ge=1, le=1000)
    max_replicas: int | None = recipe_field(
        None,
        description="Most servers while many requests wait; `replicas`, always, when empty.",
        form="absent",
        ge=1,
        le=1000,
    )

    @field_validator("engine_args")
    @classmethod
    def _leaves_airsmith_its_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                raise ValueError(f"{name!r} names no argument of vLLM: write it without dashes in front")
            remedy = _NOT_ENGINE_ARGS.get(name.replace("_", "-"))
            if remedy is not None:
                raise ValueError(f"{name} is not for serve.engine_args: {remedy}")
        return value

    @model_validator(mode="after")
    def _adapters_are_copied(self) -> Self:
        if self.mode == "adapter" and self.load == "stream":
            raise ValueError(
                "serve.load is 'stream', but with serve.mode 'adapter' base and adapters are copied to the server's "
                "disk: set serve.load to 'copy'"
            )
        return self

    @model_validator(mode="after")
    def _neuron_serves_merged_weights_from_disk(self) -> Self:
        if self.engine == "vllm_neuron":
            for reason in not_on_neuron(self):
                raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _most_is_not_less(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"serve.max_replicas is {self.max_replicas}, less than serve.replicas, {self.replicas}: raise it"
            )
        return self


def not_on_neuron(serve: Serve) -> list[str]:
    """What `vllm_neuron` cannot do of what a recipe asks for, each with its reason and what works."""
    refused = []
    if serve.mode == "adapter":
        refused.append(
            "serve.mode is 'adapter', but vLLM's plugins for Neuron serve merged weights alone (optimum-neuron's "
            "refuses LoRA, AWS's has it among no model's features): set serve.mode to 'merged'"
        )
    if serve.load == "stream":
        refused.append(
            "serve.load is 'stream', but vLLM's plugins for Neuron read weights in their own ways, from a disk: "
            "set serve.load to 'copy'"
        )
    return refused


class SecretReference(RecipeSection):
    """Where a secret lies. The secret itself never stands in a recipe."""

    airflow_connection: str | None = recipe_field(
        None, description="Id of an Airflow connection whose password is the secret.", form="absent"
    )
    environment: str | None = recipe_field(
        None,
        description="Name of an environment variable of the worker.",
        form="absent",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    kubernetes_secret: str | None = recipe_field(
        None,
        description="Kubernetes Secret and key, written `name/key`.",
        form="absent",
        pattern=r"^[-a-z0-9.]+/[-._A-Za-z0-9]+$",
    )

    @model_validator(mode="after")
    def _exactly_one_place(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "a secret is referenced by exactly one of airflow_connection, environment and kubernetes_secret, "
                f"but {' and '.join(given) or 'none'} is given"
            )
        return self


class Secrets(RecipeSection):
    """References to what a run must know and nobody may read."""

    hf_token: SecretReference | None = recipe_field(
        None, description="Token for gated and private Hub repositories.", form="absent"
    )
    api_key: SecretReference | None = recipe_field(
        None,
        description="Key that requests to the endpoint in a cluster must carry, as a `kubernetes_secret`.",
        form="absent",
    )

    @field_validator("api_key")
    @classmethod
    def _reaches_a_pod(cls, value: SecretReference | None) -> SecretReference | None:
        if value is not None and value.kubernetes_secret is None:
            raise ValueError(
                "secrets.api_key must be a kubernetes_secret: servers run as pods, which see no Airflow connection and "
                "no variable of the worker"
            )
        return value
