"""Recipe sections for the backend, the evaluation, the endpoint and the secrets."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field

BackendName = Literal["cpu", "cuda", "rocm", "neuron_xla", "neuron_native"]
JobKindName = Literal["jobset", "trainjob", "rayjob"]
NEURON_BACKENDS: tuple[BackendName, ...] = ("neuron_xla", "neuron_native")
EngineName = Literal["auto", "vllm", "vllm_neuron", "transformers"]

KUBERNETES_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
KUBERNETES_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `max_lora_rank` (`vllm.config.lora.MaxLoRARanks`)."""

_OWN = "Airsmith sets it"
_NOT_ENGINE_ARGS = {
    **dict.fromkeys(("model", "served-model-name", "host", "port", "lora-modules", "shutdown-timeout"), _OWN),
    "trust-remote-code": "use model.trust_remote_code",
    "enable-lora": "use serve.mode",
    "tensor-parallel-size": "use serve.devices, which defaults to backend.devices",
    "api-key": "reference a Secret in secrets.api_key; a recipe contains no secrets",
    "hf-token": "use secrets.hf_token; a recipe contains no secrets",
}


class Resources(RecipeSection):
    """Resource requests of a pod; empty fields use the backend's defaults."""

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
        description="Size limit of `/dev/shm`, a Kubernetes quantity; its content counts as memory.",
        form="absent",
        pattern=KUBERNETES_QUANTITY,
    )


class Backend(RecipeSection):
    """The accelerator, and the number of devices and nodes. Fixed when the DAG is parsed."""

    name: BackendName = recipe_field("cpu", description="Accelerator family.", form="absent")
    instance_type: str | None = recipe_field(
        None,
        description="Cloud instance type, for example `p5.48xlarge`; leave empty for any that fits.",
        form="absent",
    )
    devices: int = recipe_field(1, description="Number of devices per node.", form="absent", ge=1, le=128)
    nodes: int = recipe_field(1, description="Number of nodes.", form="absent", ge=1, le=1024)
    tensor_parallel_size: int | None = recipe_field(
        None,
        description="Processes that each layer is sharded across (`neuron_xla`); defaults by instance type.",
        form="absent",
        ge=1,
        le=64,
    )
    pipeline_parallel_size: int | None = recipe_field(
        None,
        description="Pipeline stages that the layers are divided into (`neuron_xla`); defaults to 1.",
        form="absent",
        ge=1,
        le=64,
    )
    job: JobKindName = recipe_field(
        "jobset",
        description="Job kind of a multi-node training: `jobset` (JobSet), `trainjob` (Kubeflow Trainer) or `rayjob` "
        "(KubeRay); its controller must be installed in the cluster.",
        form="absent",
    )
    resources: Resources = recipe_field(
        description="Resources of each training pod.",
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
                "backend.priority is set, but backend.queue is empty: set backend.queue or remove backend.priority"
            )
        return self


class Evaluate(RecipeSection):
    """Comparison of base model and tuned model on the validation split."""

    max_examples: int | None = recipe_field(
        200, description="Maximum number of validation examples; leave empty to use all.", unit="examples", ge=1
    )
    max_new_tokens: int = recipe_field(64, description="Maximum length of an answer.", unit="tokens", ge=1, le=32_768)
    backend: BackendName | None = recipe_field(
        None,
        description="Accelerator family for the evaluation; defaults to the training's, or to `cpu` if that is Neuron.",
        form="absent",
    )
    resources: Resources = recipe_field(
        description="Resources of the evaluation pod, which loads the base model and then the tuned model.",
        default_factory=Resources,
        form="absent",
    )


class Serve(RecipeSection):
    """The endpoint that the tuned model is deployed to."""

    enabled: bool = recipe_field(True, description="Deploy the tuned model at the end of the run.", form="absent")
    name: str | None = recipe_field(
        None, description="Name of the endpoint; defaults to the recipe's name.", pattern=KUBERNETES_NAME
    )
    engine: EngineName = recipe_field(
        "auto",
        description="Inference server. `auto` selects vLLM in a cluster, and locally if vLLM is installed. With a "
        "Neuron backend in a cluster, `auto` selects `vllm_neuron`, and `vllm` serves on CPUs.",
        labels={
            "auto": "auto: vLLM if installed",
            "vllm": "vLLM",
            "vllm_neuron": "vLLM on AWS Neuron devices",
            "transformers": "transformers serve: small models, no GPU required",
        },
    )
    mode: Literal["merged", "adapter"] = recipe_field(
        "merged",
        description="Serve the merged weights, or the base model with a separate adapter (vLLM only).",
        labels={"merged": "merged: one model", "adapter": "adapter: base model with a separate adapter, vLLM only"},
    )
    load: Literal["copy", "stream"] = recipe_field(
        "copy",
        description="How a server in a cluster loads the merged model. `copy` copies it to the server's disk and "
        "verifies the hash of every file; `stream` reads it from an `s3://` store into memory, without disk space and "
        "without verification.",
        labels={
            "copy": "copy: to the server's disk, every file verified",
            "stream": "stream: from the store into memory, not verified",
        },
        form="absent",
    )
    engine_args: dict[str, bool | int | float | str] = recipe_field(
        description="Additional vLLM arguments by name, for example `max-model-len: 4096`; use true or false for a "
        "switch. Not supported by other engines.",
        default_factory=dict,
        form="absent",
    )
    instance_type: str | None = recipe_field(
        None,
        description="Cloud instance type of the servers, for example `inf2.xlarge`; defaults to the training's.",
        form="absent",
    )
    devices: int | None = recipe_field(
        None,
        description="Devices per server in a cluster; defaults to the training's devices per node.",
        form="absent",
        ge=1,
        le=128,
    )
    replicas: int = recipe_field(
        1, description="Number of servers of the endpoint in a cluster.", form="absent", ge=1, le=1000
    )
    max_replicas: int | None = recipe_field(
        None,
        description="Maximum number of replicas when autoscaling; leave empty to disable autoscaling.",
        form="absent",
        ge=1,
        le=1000,
    )

    @field_validator("engine_args")
    @classmethod
    def _has_no_reserved_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                raise ValueError(f"{name!r} is not a valid vLLM argument: write it without leading dashes")
            remedy = _NOT_ENGINE_ARGS.get(name.replace("_", "-"))
            if remedy is not None:
                raise ValueError(f"{name} is not allowed in serve.engine_args: {remedy}")
        return value

    @model_validator(mode="after")
    def _adapters_are_copied(self) -> Self:
        if self.mode == "adapter" and self.load == "stream":
            raise ValueError(
                "serve.load is 'stream', but serve.mode 'adapter' requires a copy of base model and adapter on the "
                "server's disk: set serve.load to 'copy'"
            )
        return self

    @model_validator(mode="after")
    def _neuron_serves_merged_weights_from_disk(self) -> Self:
        if self.engine == "vllm_neuron":
            for reason in unsupported_on_neuron(self):
                raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _max_replicas_is_not_below_replicas(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"serve.max_replicas ({self.max_replicas}) is less than serve.replicas ({self.replicas}): increase it"
            )
        return self


def unsupported_on_neuron(serve: Serve) -> list[str]:
    """Reasons why `vllm_neuron` cannot serve a recipe, each in the form `cause: remedy`."""
    reasons = []
    if serve.mode == "adapter":
        reasons.append(
            "serve.mode is 'adapter', but the vLLM plugins for Neuron serve only merged weights (optimum-neuron's "
            "rejects LoRA, AWS's lists it for no model): set serve.mode to 'merged'"
        )
    if serve.load == "stream":
        reasons.append(
            "serve.load is 'stream', but the vLLM plugins for Neuron load weights from disk: set serve.load to 'copy'"
        )
    return reasons


class SecretReference(RecipeSection):
    """Reference to a secret. The recipe never contains the secret itself."""

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
                "a secret requires exactly one of airflow_connection, environment and kubernetes_secret, but "
                f"the recipe sets {' and '.join(given) or 'none'}"
            )
        return self


class Secrets(RecipeSection):
    """References to the secrets of a run."""

    hf_token: SecretReference | None = recipe_field(
        None, description="Token for gated and private Hub repositories.", form="absent"
    )
    api_key: SecretReference | None = recipe_field(
        None,
        description="API key of the endpoint in a cluster, as a `kubernetes_secret`.",
        form="absent",
    )

    @field_validator("api_key")
    @classmethod
    def _reaches_a_pod(cls, value: SecretReference | None) -> SecretReference | None:
        if value is not None and value.kubernetes_secret is None:
            raise ValueError(
                "secrets.api_key must be a kubernetes_secret: servers run as pods, without access to Airflow "
                "connections and to the worker's environment variables"
            )
        return value
