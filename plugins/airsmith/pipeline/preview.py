"""Preview of a run on a cluster, made without a cluster: its pods, the training's memory, its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.utils.quantity import parse_quantity

import airsmith
from airsmith.artifacts.layout import run_folder
from airsmith.artifacts.store import Store
from airsmith.backends import get_backend
from airsmith.backends.instances import INSTANCE_TYPE_LABEL, PriceList, instance_table
from airsmith.backends.servers import server_of
from airsmith.cluster.stage_pod import stage_pod
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.run import Run
from airsmith.contracts.spec import Plan, RunSpec
from airsmith.contracts.stages import TRAINING
from airsmith.errors import AirsmithError
from airsmith.pipeline.decoder import Decoder, read_decoder
from airsmith.pipeline.graph import dag_id_of
from airsmith.pipeline.memory import GIBIBYTE, MemoryEstimate, estimate_memory
from airsmith.pipeline.model_config import read_config_file, read_model_config
from airsmith.pipeline.model_fit import check_model, name_targets
from airsmith.pipeline.neuron_memory import estimate_core_memory
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe
from airsmith.serving.cluster.served_model import ServedModel
from airsmith.serving.cluster.server_pod import pod_spec
from airsmith.settings import Image, Settings

WHOLE_NODE = (*TRAINING, "evaluate", "deploy")
"""Stages whose pods take whole nodes and are priced by the node; the others share nodes."""


@dataclass(frozen=True)
class NodePreview:
    """The nodes that a pod needs.

    :param instance_type: the one that the recipe or the settings select, else the cheapest that fits; None if none of
        the table fits.
    :param is_chosen: whether the recipe or the settings select it.
    :param devices: devices per node.
    :param cores: cores per device, one process each.
    :param process_memory_bytes: device memory per process; None without devices, or if the table lacks it.
    :param usd_per_hour: price of all nodes; None if unknown.
    """

    instance_type: str | None
    is_chosen: bool
    nodes: int
    devices: int
    cores: int
    process_memory_bytes: float | None
    usd_per_hour: float | None
    price_list: PriceList | None


@dataclass(frozen=True)
class PodPreview:
    """One pod.

    :param resources: requests of its main container, as Kubernetes quantities.
    :param device: resource name of its accelerators; empty without accelerators.
    :param node: the nodes that it needs; None if it shares one.
    """

    stage: str
    image: str
    resources: Mapping[str, str]
    device: str
    node_selector: Mapping[str, str]
    node: NodePreview | None

    @property
    def devices(self) -> int:
        """Number of accelerators that it requests."""
        return int(self.resources.get(self.device, "0"))


@dataclass(frozen=True)
class Preview:
    """The preview of a run.

    :param memory: estimate for the training; None if unknown.
    :param memory_unknown: why it is unknown.
    :param available_bytes: device memory per process, or the pod's limit on CPUs; None if unknown.
    :param notes: remarks about the training.
    :param training_limit_seconds: the settings' timeout for one try of the training.
    """

    recipe: Recipe
    plan: Plan
    pods: tuple[PodPreview, ...]
    memory: MemoryEstimate | None
    memory_unknown: str
    available_bytes: float | None
    training_limit_seconds: float | None
    notes: tuple[str, ...]

    def pod(self, stage: str) -> PodPreview:
        """The pod of a stage."""
        return next(pod for pod in self.pods if pod.stage == stage)


def preview_run(recipe_file: Path, settings: Settings, model_config: Path | None = None) -> Preview:
    """Preview a run. It reads the model's config from the Hub or the store, and accesses no cluster.

    :param model_config: a local `config.json` instead of the model's own.
    :raises AirsmithError: `bad_recipe`, including a known model that does not fit; or the error of the given config.
    """
    recipe = load_recipe(recipe_file)
    plan = make_plan(recipe)
    pods = _pods(recipe_file, recipe, plan, settings)
    memory, unknown = _memory(recipe, plan, settings, model_config)
    train = next(pod for pod in pods if pod.stage == "train")
    return Preview(
        recipe=recipe,
        plan=plan,
        pods=pods,
        memory=memory,
        memory_unknown=unknown,
        available_bytes=_available_bytes(train),
        training_limit_seconds=settings.backend(plan.backend).timeout_seconds,
        notes=get_backend(plan.backend).notes(recipe),
    )


def _pods(recipe_file: Path, recipe: Recipe, plan: Plan, settings: Settings) -> tuple[PodPreview, ...]:
    settings = _with_every_image(plan, recipe, settings)
    spec = RunSpec(
        dag_id=dag_id_of(recipe_file),
        run_id="preview",
        recipe=recipe,
        recipe_file=recipe_file.name,
        recipe_digest=recipe_digest(recipe),
        plan=plan,
        airsmith_version=airsmith.__version__,
        created_at=datetime.now(timezone.utc),
    )
    run = Run(Store.open(settings.store), run_folder(spec.dag_id, spec.run_id))
    client = ApiClient()
    specs = {
        stage.stage: _endpoint_pod(recipe, settings)
        if stage.runs_in_worker
        else client.sanitize_for_serialization(stage_pod(stage.stage, run, spec, "", settings))["spec"]
        for stage in plan.stages
    }
    return tuple(_pod_preview(stage, pod_spec, recipe) for stage, pod_spec in specs.items())


def _with_every_image(plan: Plan, recipe: Recipe, settings: Settings) -> Settings:
    """The settings, with the name of an image as its reference if it was not built yet."""
    named = {stage.image for stage in plan.stages} | ({server_of(recipe).image} if plan.has("deploy") else set())
    images = {**{name: Image(reference=name) for name in named}, **settings.kubernetes.images}
    return settings.model_copy(update={"kubernetes": settings.kubernetes.model_copy(update={"images": images})})


def _endpoint_pod(recipe: Recipe, settings: Settings) -> Any:
    model = ServedModel(
        endpoint=recipe.endpoint_name, revision="preview", artifact="artifacts/model", files="artifacts/model",
        dtype="auto", version=None, recipe=recipe,
    )  # fmt: skip
    return pod_spec(model, settings)


def _pod_preview(stage: str, pod_spec: Mapping[str, Any], recipe: Recipe) -> PodPreview:
    container = pod_spec["containers"][0]
    resources = container["resources"]["requests"]
    device = next((name for name in resources if name in instance_table().device_resources), "")
    selector = pod_spec.get("nodeSelector") or {}
    node = _node(stage, resources, device, selector, recipe) if stage in WHOLE_NODE else None
    return PodPreview(stage, container["image"], resources, device, selector, node)


def _node(
    stage: str, resources: Mapping[str, str], device: str, selector: Mapping[str, str], recipe: Recipe
) -> NodePreview:
    table = instance_table()
    chosen = selector.get(INSTANCE_TYPE_LABEL)
    cpu, memory_bytes = float(parse_quantity(resources["cpu"])), float(parse_quantity(resources["memory"]))
    fitting = table.fitting(device or None, int(resources.get(device, "0")), cpu, memory_bytes / GIBIBYTE)
    instance_type = chosen or (fitting[0] if fitting else None)
    instance = table.instances.get(instance_type or "")
    accelerator = table.device_of(instance_type or "")
    nodes = recipe.backend.nodes if stage in TRAINING else 1
    return NodePreview(
        instance_type=instance_type,
        is_chosen=chosen is not None,
        nodes=nodes,
        devices=instance.devices if instance else 0,
        cores=accelerator.logical_cores if accelerator else 1,
        process_memory_bytes=accelerator.memory_gib * GIBIBYTE / accelerator.logical_cores if accelerator else None,
        usd_per_hour=nodes * instance.price.usd_per_hour if instance and instance.price else None,
        price_list=table.price_list_of(instance_type or ""),
    )


def _memory(
    recipe: Recipe, plan: Plan, settings: Settings, model_config: Path | None
) -> tuple[MemoryEstimate | None, str]:
    """The estimate, or the reason for its absence. A config file given by the user must be readable."""
    given = read_config_file(model_config) if model_config is not None else None
    try:
        config = read_model_config(recipe, settings) if given is None else given
    except AirsmithError as error:
        return None, str(error)
    check_model(recipe, config)
    try:
        return _estimate(read_decoder(config), name_targets(recipe), plan), ""
    except AirsmithError as error:
        return None, str(error)


def _estimate(decoder: Decoder, recipe: Recipe, plan: Plan) -> MemoryEstimate:
    if get_backend(plan.backend).splits_model:
        return estimate_core_memory(decoder, recipe, plan.batch, plan.parallel)
    return estimate_memory(decoder, recipe, plan.batch)


def _available_bytes(train: PodPreview) -> float | None:
    if train.device:
        return train.node.process_memory_bytes if train.node else None
    return float(parse_quantity(train.resources["memory"]))
