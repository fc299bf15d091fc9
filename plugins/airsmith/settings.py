"""Settings of an installation, from AIRSMITH_* variables or from the YAML file that AIRSMITH_SETTINGS names."""

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
    """A toleration of a node's taint, with the fields of the Kubernetes API."""

    key: Optional[str] = Field(None, description="Key of the taint; leave empty to match any key.")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="`Equal` also compares the taint's value.")
    value: Optional[str] = Field(None, description="Value of the taint; used with `Equal`.")
    effect: Optional[Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]] = Field(
        None, description="Effect of the taint; leave empty to match any effect."
    )


class BackendSettings(_Group):
    """Settings of the tasks that run on one backend."""

    pool: Optional[str] = Field(None, description="Airflow pool of the tasks.")
    retries: int = Field(2, ge=0, description="Retries of a task after a transient failure.")
    retry_delay_seconds: float = Field(
        10, ge=0, description="Delay before a retry in seconds; doubles with each retry of errors that back off."
    )
    timeout_seconds: Optional[float] = Field(
        None, gt=0, description="Time limit of one attempt in seconds; time in Kueue's queue does not count."
    )
    node_selector: dict[str, str] = Field({}, description="Node selector of the pods.")
    tolerations: tuple[Toleration, ...] = Field((), description="Tolerations of the pods.")
    startup_timeout_seconds: float = Field(
        600, gt=0, description="Maximum wait in seconds for a pod's node and image; new accelerator nodes take minutes."
    )


class LocalSettings(_Group):
    """Settings of stages and endpoints that run as local processes."""

    stages_python: Optional[Path] = Field(
        None,
        description="Python with airsmith-stages; defaults to `.venvs/stages/bin/python`, then to the one on PATH.",
    )
    state_dir: Path = Field(Path(".airsmith"), description="Folder for served models and endpoint logs.")
    serve_host: str = Field("127.0.0.1", description="Address that endpoints listen on.")
    serve_port: int = Field(0, ge=0, le=65535, description="Port of an endpoint; 0 selects a free port.")
    kill_grace_seconds: float = Field(30, ge=0, description="Seconds between SIGTERM and SIGKILL for a stage.")


class Image(_Group):
    """A container image that `make images` built and pushed."""

    reference: str = Field(description="Image reference with its digest, `registry/name@sha256:…`.")
    toolchain: dict[str, str] = Field({}, description="Versions of the libraries in the image that affect results.")


class KubernetesSettings(_Group):
    """Settings of stages and endpoints that run as pods."""

    namespace: str = Field("airsmith", description="Namespace of the pods and endpoints.")
    connection: Optional[str] = Field(
        None, description="Airflow connection to the cluster; defaults to the worker's cluster or to KUBECONFIG."
    )
    service_account: str = Field(
        "default",
        description="Service account of the pods, for the cloud's pod identity; its token is not mounted.",
    )
    image_pull_secrets: tuple[str, ...] = Field((), description="Secrets with the credentials of container registries.")
    images: dict[str, Image] = Field({}, description="Images by name, as `make images` writes them.")
    environment: dict[str, str] = Field(
        {}, description="Environment variables of every pod, for example AWS_ENDPOINT_URL and AWS_REGION; no secrets."
    )
    store_secret: Optional[str] = Field(
        None,
        description="Secret whose keys are environment variables with the store's credentials; leave empty with pod "
        "identity.",
    )
    hub_secret: Optional[str] = Field(
        None, description="Secret whose key HF_TOKEN is the Hub token, for recipes without one."
    )
    api_key_secret: Optional[str] = Field(
        None, description="Secret whose key API_KEY is the endpoints' API key, for recipes without one."
    )
    gateway: Optional[str] = Field(
        None,
        description="Gateway of the Gateway API, `namespace/name`. It exposes endpoints at `/<namespace>/<endpoint>` "
        "and splits traffic between two versions by weight.",
        pattern=r"^[-a-z0-9]+/[-.a-z0-9]+$",
    )
    prometheus: Optional[str] = Field(
        None, description="URL of the Prometheus that scrapes the endpoints; KEDA scales endpoints by its metrics."
    )
    monitor_labels: dict[str, str] = Field(
        {}, description="Labels by which the Prometheus Operator selects ServiceMonitors, for example `release`."
    )
    scratch_size: str = Field("20Gi", description="Default scratch disk request of a pod.")
    check_placement: bool = Field(
        True,
        description="Reject a run in preflight if its pods fit no node and no Karpenter node pool. Disable this if an "
        "autoscaler adds nodes that the cluster does not list.",
    )
    termination_grace_seconds: int = Field(
        120, ge=0, description="Seconds for a training's last checkpoint before its pod is killed."
    )


GarbageKind = Literal["unfinished", "uploads", "endpoints", "checkpoints", "caches"]
"""Kinds of garbage that the janitor deletes only if `janitor.delete` lists them."""


class JanitorSettings(_Group):
    """What the janitor deletes, and after how long."""

    every_minutes: int = Field(5, ge=1, description="Minutes between two runs of the janitor.")
    delete: tuple[GarbageKind, ...] = Field(
        (),
        description="What to delete besides orphaned pods: partly published folders (`unfinished`), abandoned "
        "`uploads`, unused servers of `endpoints`, old `checkpoints`, unused artifacts (`caches`). Other kinds are "
        "only reported.",
    )
    grace_hours: float = Field(
        24, ge=1, description="Hours without activity after which unfinished work counts as abandoned."
    )
    checkpoint_days: float = Field(30, gt=0, description="Retention of a training's checkpoints in days.")
    finished_checkpoint_days: float = Field(
        7, gt=0, description="Retention of checkpoints in days after the training has finished."
    )
    cache_days: float = Field(
        30, gt=0, description="Retention of an otherwise unused artifact in days after the last run that used it."
    )


class Settings(_Group):
    """Airsmith's settings."""

    runtime: Literal["local", "kubernetes"] = Field(
        "local", description="Run stages as processes of the Airflow worker (`local`) or as pods (`kubernetes`)."
    )
    store: str = Field(
        "", description="Object store, `s3://bucket/prefix` or `file:///dir`; defaults to `.airsmith/store`."
    )
    hub_endpoint: str = Field("", description="URL of the Hub; defaults to HF_ENDPOINT, then to the public Hub.")
    hub_connection: Optional[str] = Field(
        None, description="Airflow connection whose password is the Hub token, for recipes without one."
    )
    recipes: Path = Field(Path("dags/recipes"), description="Folder in which commands look up a recipe by name.")
    team: str = Field("", description="Owner of tasks and models.")
    local: LocalSettings = Field(default_factory=LocalSettings, description="Local processes.")
    kubernetes: KubernetesSettings = Field(default_factory=KubernetesSettings, description="Pods in a cluster.")
    janitor: JanitorSettings = Field(default_factory=JanitorSettings, description="What the janitor deletes, and when.")
    backends: dict[BackendName, BackendSettings] = Field(
        default_factory=dict, description="Settings of the tasks by backend name."
    )

    @property
    def uses_cluster(self) -> bool:
        """Whether stages run as pods instead of local processes."""
        return self.runtime == "kubernetes"

    def backend(self, name: str) -> BackendSettings:
        """The settings of a backend's tasks; the defaults if none are set."""
        return next((chosen for known, chosen in self.backends.items() if known == name), BackendSettings())

    def image(self, name: str) -> Image:
        """The image with this name.

        :raises AirsmithError: `not_found` if the settings do not contain it.
        """
        image = self.kubernetes.images.get(name)
        if image is None:
            known = ", ".join(sorted(self.kubernetes.images)) or "none"
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"kubernetes.images does not contain an image {name!r} (it contains {known}).",
                f"Build it with `make images IMAGES={name}`, or add it to kubernetes.images.",
            )
        return image

    def stages_python(self) -> Path:
        """The Python that runs stages on this machine.

        :raises AirsmithError: `not_found` if no candidate exists.
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
            f"No Python with airsmith-stages found; looked for {', '.join(map(str, candidates))}.",
            "Run `make setup`, or set AIRSMITH_LOCAL__STAGES_PYTHON to a Python with airsmith-stages.",
        )


@dataclass(frozen=True)
class SettingOrigin:
    """A setting's value and its origin."""

    key: str
    value: Any
    origin: str


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process.

    :raises AirsmithError: `bad_recipe`, one line per mistake: location, key, cause and remedy.
    """
    return _load(environment)[0]


def settings_origins(environment: Mapping[str, str] = os.environ) -> list[SettingOrigin]:
    """All settings with value and origin: a variable, a line of the file, or the default."""
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
