"""The pod of a stage, from the run's spec and the settings alone. Nothing here asks a cluster or knows Airflow."""

from __future__ import annotations

from collections.abc import Mapping

from kubernetes.client import models as k8s

from airsmith.backends import Placement, PodSize, get_backend
from airsmith.cluster.labels import PREFIX, object_name, pod_labels
from airsmith.cluster.queue import queue_labels
from airsmith.cluster.secrets import api_key_of, variable_from_secret
from airsmith.cluster.security import container_security, pod_security
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec, StagePlan
from airsmith.contracts.stages import HUB_STAGES, TRAINING
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.operation import Resources
from airsmith.settings import BackendSettings, Settings

CONTAINER = "base"
SCRATCH = "/scratch"
TEMPORARY = "temporary"
_SIZES = {
    "tokenize": PodSize(cpu="500m", memory="4Gi"),
    "merge": PodSize(cpu="1", memory="1Gi"),
    "evaluate": PodSize(cpu="1", memory="4Gi"),
}
_LIGHT = PodSize(cpu="200m", memory="1Gi")


def stage_pod(stage: str, run: Run, spec: RunSpec, digest: str, settings: Settings) -> k8s.V1Pod:
    """The pod that runs one stage of one run. Its name is the run's and the stage's: two cannot exist at once.

    :param digest: of the output to make.
    :raises AirsmithError: `not_found` where the settings lack the stage's image, `bad_recipe` where a secret that the
        recipe names cannot reach a pod.
    """
    plan = spec.plan.stage(stage)
    chosen = settings.backend(plan.backend)
    return k8s.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=k8s.V1ObjectMeta(
            name=pod_name(stage, run, spec),
            namespace=settings.kubernetes.namespace,
            labels={
                **pod_labels(
                    recipe=spec.recipe.name, run=run.name, trial=run.trial_name, stage=stage, digest=digest[:16],
                    team=settings.team, airsmith=spec.airsmith_version, bundle=spec.bundle_version or "",
                ),
                **(queue_labels(spec.recipe.backend.queue, spec.recipe.backend.priority) if stage in TRAINING else {}),
            },
            annotations={
                f"{PREFIX}run-uri": run.uri,
                f"{PREFIX}digest": digest,
                **({"karpenter.sh/do-not-disrupt": "true"} if stage in TRAINING else {}),
            },
        ),
        spec=k8s.V1PodSpec(
            containers=[_container(plan, run, spec, settings)],
            restart_policy="Never",
            service_account_name=settings.kubernetes.service_account,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(),
            image_pull_secrets=[k8s.V1LocalObjectReference(name) for name in settings.kubernetes.image_pull_secrets],
            scheduler_name=_placement(plan, spec).scheduler,
            node_selector=_node_selector(plan, spec, chosen),
            tolerations=_tolerations(plan, chosen),
            termination_grace_period_seconds=settings.kubernetes.termination_grace_seconds if stage in TRAINING else 30,
            volumes=_volumes(plan, spec),
        ),
    )  # fmt: skip


def pod_name(stage: str, run: Run, spec: RunSpec) -> str:
    """Name of a stage's pod: readable, and another for every run and every trial of one."""
    trial = (run.trial_name,) if run.trial_name else ()
    return object_name(spec.recipe.name[:30], stage, run.name.rsplit("-", 1)[-1], *trial)


def _container(plan: StagePlan, run: Run, spec: RunSpec, settings: Settings) -> k8s.V1Container:
    return k8s.V1Container(
        name=CONTAINER,
        image=spec.images.get(plan.image) or settings.image(plan.image).reference,
        command=["airsmith-stage"],
        args=[plan.stage, "--run", run.uri],
        env=_environment(plan, spec, settings),
        env_from=_store_credentials(settings),
        resources=_resources(plan, spec, settings),
        security_context=container_security(),
        volume_mounts=[
            k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH),
            *([k8s.V1VolumeMount(name="shm", mount_path="/dev/shm")] if plan.stage in TRAINING else []),
            *(k8s.V1VolumeMount(name=TEMPORARY, mount_path=path) for path in _placement(plan, spec).temporary),
        ],
        termination_message_policy="FallbackToLogsOnError",
    )


def _environment(plan: StagePlan, spec: RunSpec, settings: Settings) -> list[k8s.V1EnvVar]:
    stage = plan.stage
    plain: Mapping[str, str] = {
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "HF_HOME": f"{SCRATCH}/huggingface",
        "AIRSMITH_SCRATCH": SCRATCH,
        "PYTHONUNBUFFERED": "1",
        **({"HF_ENDPOINT": settings.hub_endpoint} if stage in HUB_STAGES else {"HF_HUB_OFFLINE": "1"}),
        **_placement(plan, spec).environment,
        **settings.kubernetes.environment,
    }
    variables = [k8s.V1EnvVar(name=name, value=value) for name, value in plain.items()]
    if stage in HUB_STAGES:
        return [*variables, *_hub_token(spec, settings)]
    return [*variables, *_endpoint_key(spec, settings)] if stage == "smoke_test" else variables


def _endpoint_key(spec: RunSpec, settings: Settings) -> list[k8s.V1EnvVar]:
    """The key that the endpoint asks for, by reference."""
    reference = api_key_of(spec.recipe, settings)
    return [] if reference is None else [variable_from_secret("OPENAI_API_KEY", *reference.split("/"))]


def _hub_token(spec: RunSpec, settings: Settings) -> list[k8s.V1EnvVar]:
    """The token by reference: the recipe's Secret, else the deployment's."""
    reference = spec.recipe.secrets.hf_token
    if reference is not None and reference.kubernetes_secret is not None:
        name, key = reference.kubernetes_secret.split("/")
    elif reference is not None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            "secrets.hf_token names an Airflow connection or a variable of the worker, which a pod cannot read.",
            "Put the token into a Secret of the pods' namespace and name it: secrets.hf_token.kubernetes_secret.",
        )
    elif settings.kubernetes.hub_secret is not None:
        name, key = settings.kubernetes.hub_secret, "HF_TOKEN"
    else:
        return []
    return [variable_from_secret("HF_TOKEN", name, key)]


def _store_credentials(settings: Settings) -> list[k8s.V1EnvFromSource]:
    secret = settings.kubernetes.store_secret
    return [] if secret is None else [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=secret))]


def _resources(plan: StagePlan, spec: RunSpec, settings: Settings) -> k8s.V1ResourceRequirements:
    wanted, size = _wanted(plan, spec), _pod_size(plan, spec)
    memory = wanted.memory or size.memory
    disk = wanted.ephemeral_storage or settings.kubernetes.scratch_size
    device = get_backend(plan.backend).device_resource if plan.needs_accelerator else None
    devices = {device: str(spec.recipe.backend.devices)} if device is not None else {}
    offered = {**devices, **_placement(plan, spec).resources}
    return k8s.V1ResourceRequirements(
        requests={"cpu": wanted.cpu or size.cpu, "memory": memory, "ephemeral-storage": disk, **offered},
        limits={"memory": memory, **offered},
    )


def _wanted(plan: StagePlan, spec: RunSpec) -> Resources:
    """What the recipe asks for in the place of the backend's own sizes."""
    if plan.stage in TRAINING:
        return spec.recipe.backend.resources
    return spec.recipe.evaluate.resources if plan.stage == "evaluate" else Resources()


def _pod_size(plan: StagePlan, spec: RunSpec) -> PodSize:
    backend = get_backend(plan.backend)
    if plan.stage in TRAINING:
        return backend.training_size(spec.recipe)
    return backend.pod_size if plan.needs_accelerator else _SIZES.get(plan.stage, _LIGHT)


def _placement(plan: StagePlan, spec: RunSpec) -> Placement:
    return get_backend(plan.backend).placement(spec.recipe) if plan.stage in TRAINING else Placement()


def _volumes(plan: StagePlan, spec: RunSpec) -> list[k8s.V1Volume]:
    scratch = k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource())
    if plan.stage not in TRAINING:
        return [scratch]
    size = _wanted(plan, spec).shared_memory or _pod_size(plan, spec).shared_memory
    shared = k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=size)
    volumes = [scratch, k8s.V1Volume(name="shm", empty_dir=shared)]
    if _placement(plan, spec).temporary:
        volumes.append(k8s.V1Volume(name=TEMPORARY, empty_dir=k8s.V1EmptyDirVolumeSource()))
    return volumes


def _node_selector(plan: StagePlan, spec: RunSpec, chosen: BackendSettings) -> dict[str, str]:
    instance_type = spec.recipe.backend.instance_type if plan.needs_accelerator else None
    return {
        **chosen.node_selector,
        **({"node.kubernetes.io/instance-type": instance_type} if instance_type is not None else {}),
    }


def _tolerations(plan: StagePlan, chosen: BackendSettings) -> list[k8s.V1Toleration]:
    given = [k8s.V1Toleration(**toleration.model_dump()) for toleration in chosen.tolerations]
    backend = get_backend(plan.backend)
    if plan.needs_accelerator and backend.devices_are_tainted:
        given.append(k8s.V1Toleration(key=backend.device_resource, operator="Exists", effect="NoSchedule"))
    return given
