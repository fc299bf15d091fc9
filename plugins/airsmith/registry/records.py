"""The registry's records: versions of a model, its champion, and endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Optional

from pydantic import BaseModel, ConfigDict

from airsmith.artifacts.manifest import Metric


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelVersionDraft(_Record):
    """A version that has no number yet.

    :ivar digest: digest of the inputs that made it; a digest is registered at most once.
    :ivar model: path of the merged model's artifact in the store.
    :ivar adapter: path of the adapter's artifact; None after full-parameter training.
    :ivar base_model: path of the base model's artifact.
    :ivar base: source of the base model: its id and revision.
    :ivar evaluation: path of the evaluation's artifact.
    :ivar run: path of the run that made it.
    """

    digest: str
    model: str
    adapter: Optional[str] = None
    base_model: str
    base: Mapping[str, str]
    evaluation: Optional[str] = None
    recipe_digest: str
    metrics: Mapping[str, Metric] = {}
    versions: Mapping[str, str] = {}
    run: Optional[str] = None


class ModelVersion(ModelVersionDraft):
    """A registered version of a model. It is immutable."""

    name: str
    version: int
    created_at: datetime


class ChampionEvent(_Record):
    """A past promotion."""

    version: int
    reason: str
    promoted_at: datetime


class Champion(_Record):
    """The version of a model that is in use."""

    name: str
    version: int
    reason: str
    promoted_at: datetime
    history: tuple[ChampionEvent, ...] = ()


class ServerProcess(_Record):
    """A server's process on this machine.

    :ivar pid: process id, which is also the id of its process group.
    :ivar started_at: start time in seconds since the epoch, as the kernel reports it; it detects a recycled pid.
    :ivar log: file with the process's output.
    """

    pid: int
    started_at: float
    log: str


class Revision(_Record):
    """One start of an endpoint's server.

    :ivar id: unique id of this start.
    :ivar engine: name of the model server.
    :ivar address: base URL; of a canary, the URL that reaches the canary alone.
    :ivar model_name: value of `model` in requests.
    :ivar version: number of the model's version in the registry; None if it is not registered.
    :ivar model_uri: path of the served artifact in the store; with adapters, of their base model.
    :ivar adapters: paths of the served adapters in the store, by model name.
    :ivar process: the server's process on this machine; None in a cluster.
    :ivar namespace: namespace in the cluster; None on this machine.
    :ivar configuration: digest of the pod's specification and the replica counts; None on this machine.
    :ivar replicas: number of pods in a cluster while the revision serves alone.
    :ivar autoscaled: whether an autoscaler changes the number of pods.
    :ivar api_key: Secret and key, `name/key`, of the API key that requests must carry; None if none is required.
    :ivar run: path in the store of the run that deployed it, which also holds the model's evaluation.
    :ivar compiled: path in the store of the compile cache of its pods; None if the engine does not compile.
    """

    id: str
    engine: str
    address: str
    model_name: str
    version: Optional[int] = None
    model_uri: str
    adapters: Mapping[str, str] = {}
    process: Optional[ServerProcess] = None
    namespace: Optional[str] = None
    configuration: Optional[str] = None
    replicas: int = 1
    autoscaled: bool = False
    api_key: Optional[str] = None
    run: Optional[str] = None
    compiled: Optional[str] = None


class Endpoint(_Record):
    """A served model: a stable name and address, and the revisions behind it.

    :ivar current: the revision that serves all requests that the canary does not serve.
    :ivar canary: the revision that serves `canary_percent` of the requests.
    :ivar canary_percent: from 0 to 100.
    :ivar history: previous values of `current`, the newest last.
    """

    name: str
    current: Revision
    canary: Optional[Revision] = None
    canary_percent: int = 0
    history: tuple[Revision, ...] = ()
    updated_at: datetime

    @property
    def previous(self) -> Optional[Revision]:
        """The revision that was current before."""
        return self.history[-1] if self.history else None

    def find(self, revision_id: str) -> Optional[Revision]:
        """The current revision or the canary, if it has this id."""
        revisions = (self.current, self.canary)
        return next((found for found in revisions if found is not None and found.id == revision_id), None)

    def with_current(self, **changes: Any) -> Endpoint:
        """A copy of the endpoint with changed fields of the current revision."""
        return self.model_copy(update={"current": self.current.model_copy(update=changes)})
