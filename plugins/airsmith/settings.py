"""What a platform engineer decides once: from AIRSMITH_* variables or the YAML file that AIRSMITH_SETTINGS names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.dotted_keys import flatten
from airsmith.recipe.operation import BackendName
from airsmith.recipe.validate import validate
from airsmith.recipe.yaml_file import YamlFile, read_yaml

ENVIRONMENT_PREFIX = "AIRSMITH_"
FILE_VARIABLE = "AIRSMITH_SETTINGS"

_NOT_SETTINGS = ("AIRSMITH_SETTINGS", "AIRSMITH_SCRATCH", "AIRSMITH_STORE_DEADLINE_SECONDS")
_TEST_PREFIX = "AIRSMITH_TEST_"
_SEPARATOR = "__"


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Group):
    """A taint that pods may run beside, as Kubernetes spells it."""

    key: Optional[str] = Field(None, description="Key of the taint; any when empty.")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Whether the taint's value counts.")
    value: Optional[str] = Field(None, description="Value of the taint, with `Equal`.")
    effect: Optional[Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]] = Field(
        None, description="Effect of the taint; any when empty."
    )


class BackendSettings(_Group):
    """How the tasks of one backend are run."""

    pool: Optional[str] = Field(None, description="Airflow pool that its tasks take a slot of.")
    retries: int = Field(2, ge=0, description="Retries of a task whose failure may pass.")
    retry_delay_seconds: float = Field(
        10, ge=0, description="Wait before a retry; doubled each time where it backs off."
    )
    timeout_seconds: Optional[float] = Field(
        None, gt=0, description="Longest time that one attempt may take; waiting in Kueue's queue does not count."
    )
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that its pods run on.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints that its pods tolerate.")
    startup_timeout_seconds: float = Field(
        600, gt=0, description="Longest wait for a pod's node and image; new accelerator nodes take long."
    )


class LocalSettings(_Group):
    """How stages and endpoints run as processes on this machine."""

    stages_python: Optional[Path] = Field(
        None, description="Interpreter that has airsmith-stages; `.venvs/stages/bin/python`, else what is on PATH."
    )
    state_dir: Path = Field(Path(".airsmith"), description="Folder for served models and the endpoints' logs.")
    serve_host: str = Field("127.0.0.1", description="Address that endpoints listen on.")
    serve_port: int = Field(0, ge=0, le=65535, description="Port of an endpoint; a free one when 0.")
    kill_grace_seconds: float = Field(30, ge=0, description="Time between asking a stage to end and killing it.")


class Image(_Group):
    """A container image, as `make images` built and pushed it."""

    reference: str = Field(description="Its name with its digest, `registry/name@sha256:…`.")
    toolchain: dict[str, str] = Field({}, description="Versions of the libraries in it that determine results.")


class KubernetesSettings(_Group):
    """How stages and endpoints run as pods."""

    namespace: str = Field("airsmith", description="Namespace of the pods and endpoints.")
    connection: Optional[str] = Field(
        None, description="Airflow connection to the cluster; the worker's own cluster or KUBECONFIG when empty."
    )
    service_account: str = Field(
        "default", description="Service account of the pods, for a cloud's pod identity; its token is not mounted."
    )
    image_pull_secrets: tuple[str, ...] = Field((), description="Secrets that hold the registries' credentials.")
    images: dict[str, Image] = Field({}, description="Images by name; `make images` writes them.")
    environment: dict[str, str] = Field(
        {}, description="Variables of every pod, for example AWS_ENDPOINT_URL and AWS_REGION; never a secret."
    )
    store_secret: Optional[str] = Field(
        None, description="Secret whose keys are the store's credentials as variables; none with pod identity."
    )
    hub_secret: Optional[str] = Field(
        None, description="Secret whose key HF_TOKEN is the Hub's token, where a recipe names none."
    )
    api_key_secret: Optional[str] = Field(
        None, description="Secret whose key API_KEY requests to endpoints must carry, where a recipe names none."
    )
    gateway: Optional[str] = Field(
        None,
        description="Gateway of the Gateway API, `namespace/name`, through which endpoints answer at "
        "`/<namespace>/<endpoint>`, and by whose weights two versions share traffic.",
        pattern=r"^[-a-z0-9]+/[-.a-z0-9]+$",
    )
    prometheus: Optional[str] = Field(
        None, description="Prometheus that scrapes the endpoints; with KEDA, endpoints scale by waiting requests."
    )
    monitor_labels: dict[str, str] = Field(
        {}, description="Labels by which the Prometheus Operator finds ServiceMonitors, for example `release`."
    )
    scratch_size: str = Field("20Gi", description="Scratch disk that a pod asks for, where the recipe does not say.")
    check_placement: bool = Field(
        True,
        description="Whether preflight refuses a run whose pods fit no node and no Karpenter node pool; off where an "
        "autoscaler makes nodes that the cluster does not show.",
    )
    termination_grace_seconds: int = Field(120, ge=0, description="Time that a training has for a last checkpoint.")


GarbageKind = Literal["unfinished", "uploads", "endpoints", "checkpoints", "caches"]
"""What the janitor removes only where it is told to."""


class JanitorSettings(_Group):
    """What the janitor removes, and how long it waits."""

    every_minutes: int = Field(5, ge=1, description="Minutes between its rounds.")
    delete: tuple[GarbageKind, ...] = Field(
        (),
        description="What it removes beside orphaned pods: half-published folders (`unfinished`), abandoned `uploads`, "
        "unused servers of `endpoints`, old `checkpoints`, unused artifacts (`caches`). Of the others it says what "
        "there is.",
    )
    grace_hours: float = Field(
        24, ge=1, description="Hours without a sign of life after which something half-done counts as abandoned."
    )
    checkpoint_days: float = Field(30, gt=0, description="Days that the checkpoints of a training are kept.")
    finished_checkpoint_days: float = Field(
        7, gt=0, description="Days that they are kept once the training has its output."
    )
    cache_days: float = Field(
        30, gt=0, description="Days that an artifact is kept after the last run that used it, where nothing else does."
    )


class Settings(_Group):
    """Airsmith's settings."""

    runtime: Literal["local", "kubernetes"] = Field(
        "local", description="How stages are started: as processes of Airflow's worker, or as pods."
    )
    store: str = Field(
        "", description="Object store, `s3://bucket/prefix` or `file:///dir`; `.airsmith/store` when empty."
    )
    hub_endpoint: str = Field("", description="Address of the Hub; HF_ENDPOINT, else the public one, when empty.")
    hub_connection: Optional[str] = Field(
        None, description="Airflow connection whose password is the Hub's token, where a recipe names none."
    )
    recipes: Path = Field(Path("dags/recipes"), description="Folder of recipes, for commands that are given a name.")
    team: str = Field("", description="Owner that tasks and models are marked with.")
    local: LocalSettings = Field(default_factory=LocalSettings, description="Processes on this machine.")
    kubernetes: KubernetesSettings = Field(default_factory=KubernetesSettings, description="Pods of a cluster.")
    janitor: JanitorSettings = Field(default_factory=JanitorSettings, description="What is removed, and when.")
    backends: dict[BackendName, BackendSettings] = Field(
        default_factory=dict, description="How the tasks of a backend are run, by its name."
    )

    @property
    def uses_cluster(self) -> bool:
        """Whether stages are pods, not processes of this machine."""
        return self.runtime == "kubernetes"

    def backend(self, name: str) -> BackendSettings:
        """How the tasks of a backend are run."""
        return next((chosen for known, chosen in self.backends.items() if known == name), BackendSettings())

    def image(self, name: str) -> Image:
        """The image of this name.

        :raises AirsmithError: `not_found` where it was not built.
        """
        image = self.kubernetes.images.get(name)
        if image is None:
            known = ", ".join(sorted(self.kubernetes.images)) or "none"
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The settings name no image {name!r} (kubernetes.images has {known}).",
                f"Build it with `make images IMAGES={name}`, or name it in kubernetes.images.",
            )
        return image

    def stages_python(self) -> Path:
        """The interpreter that runs stages on this machine.

        :raises AirsmithError: `not_found` where there is none.
        """
        if self.local.stages_python is not None:
            candidates = [self.local.stages_python]
        else:
            command = shutil.which("airsmith-stage")
            beside = [Path(command).parent / "python"] if command else []
            candidates = [Path(".venvs/stages/bin/python").absolute(), *beside]
        for candidate in candidates:
            if candidate.exists():
                return candidate
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"No Python with airsmith-stages was found: looked at {', '.join(map(str, candidates))}.",
            "Run `make setup`, or set AIRSMITH_LOCAL__STAGES_PYTHON to one that has it.",
        )


@dataclass(frozen=True)
class SettingOrigin:
    """One setting's value and where it comes from."""

    key: str
    value: Any
    origin: str


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process.

    :raises AirsmithError: `bad_recipe`, one line per mistake: where it stands, key, cause and remedy.
    """
    return _load(environment)[0]


def settings_origins(environment: Mapping[str, str] = os.environ) -> list[SettingOrigin]:
    """Every setting with its value and its origin: a variable, a line of the file, or the default."""
    settings, origins = _load(environment)
    values = flatten(settings.model_dump(mode="json"))
    return [SettingOrigin(key, value, _origin(key, origins)) for key, value in values.items()]


def _load(environment: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    file = _settings_file(environment)
    content: dict[str, Any] = dict(file.content) if file else {}
    origins = {key: f"{file.path}:{line}" for key, line in file.lines.items()} if file else {}
    for variable, key, value in _variables(environment):
        _set(content, key.split("."), value)
        origins[key] = f"variable {variable}"
    settings = validate(Settings, content, lambda key: _origin(key, origins), what="setting")
    defaults = {
        "store": settings.store or f"file://{settings.local.state_dir.absolute()}/store",
        "hub_endpoint": (settings.hub_endpoint or environment.get("HF_ENDPOINT") or "https://huggingface.co").rstrip(
            "/"
        ),
    }
    if not settings.hub_endpoint and environment.get("HF_ENDPOINT"):
        origins["hub_endpoint"] = "variable HF_ENDPOINT"
    return settings.model_copy(update=defaults), origins


def _settings_file(environment: Mapping[str, str]) -> YamlFile | None:
    path = environment.get(FILE_VARIABLE)
    return read_yaml(Path(path)) if path else None


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for variable, value in sorted(environment.items()):
        if (
            not variable.startswith(ENVIRONMENT_PREFIX)
            or variable in _NOT_SETTINGS
            or variable.startswith(_TEST_PREFIX)
        ):
            continue
        yield variable, variable[len(ENVIRONMENT_PREFIX) :].lower().replace(_SEPARATOR, "."), value


def _set(content: dict[str, Any], path: list[str], value: str) -> None:
    *groups, name = path
    for group in groups:
        inner = content.get(group)
        content[group] = dict(inner) if isinstance(inner, Mapping) else {}
        content = content[group]
    content[name] = value


def _origin(key: str, origins: Mapping[str, str]) -> str:
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "default"
