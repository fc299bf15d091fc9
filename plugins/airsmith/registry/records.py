"""The registry's records: versions of a model, its champion, and endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Optional

from pydantic import BaseModel, ConfigDict

from airsmith.artifacts.manifest import Metric


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelVersionDraft(_Record):
    """A version before it has its number.

    :ivar digest: digest of what made it; the same digest is registered once.
    :ivar model: path in the store of the merged model's artifact.
    :ivar adapter: path of the adapter's artifact, where there is one.
    :ivar base_model: path of the base model's artifact.
    :ivar base: where the base came from: its id and revision.
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
    """A registered version of a model; it never changes."""

    name: str
    version: int
    created_at: datetime


class ChampionEvent(_Record):
    """One promotion of the past."""

    version: int
    reason: str
    promoted_at: datetime


class Champion(_Record):
    """Which version of a model is the one to use."""

    name: str
    version: int
    reason: str
    promoted_at: datetime
    history: tuple[ChampionEvent, ...] = ()


class ServerProcess(_Record):
    """A server's process on this machine.

    :ivar pid: its id, and that of its process group.
    :ivar started_at: seconds since the epoch, as the kernel has it; a recycled pid has another.
    :ivar log: file that takes its output.
    """

    pid: int
    started_at: float
    log: str


class Deployment(_Record):
    """What an endpoint serves.

    :ivar address: where it answers; of a version beside another one, where it answers alone.
    :ivar model_name: what requests name in `model`.
    :ivar model_uri: path in the store of the served artifact; where adapters are served, of their base.
    :ivar adapters: paths in the store of the adapters beside the base, by the names that requests use.
    :ivar deployment: unique id of this start of a server.
    :ivar process: the server on this machine, or None where a cluster runs it.
    :ivar namespace: of the cluster that runs it, else None.
    :ivar configuration: digest of all that a cluster was told about it; None where none was.
    :ivar replicas: servers that it has in a cluster while it serves alone.
    :ivar scales_itself: whether an autoscaler changes that.
    :ivar api_key: Secret and key, `name/key`, that requests must carry; None where they need none.
    :ivar run: path in the store of the run that started it; it holds what the model was evaluated by.
    :ivar compiled: path in the store of what its servers have compiled, once one has; None where none compiles.
    """

    engine: str
    address: str
    model_name: str
    version: Optional[int] = None
    model_uri: str
    deployment: str
    process: Optional[ServerProcess] = None
    namespace: Optional[str] = None
    adapters: Mapping[str, str] = {}
    configuration: Optional[str] = None
    replicas: int = 1
    scales_itself: bool = False
    api_key: Optional[str] = None
    run: Optional[str] = None
    compiled: Optional[str] = None


class Endpoint(Deployment):
    """A served model, and those that were served there before, the newest last.

    :ivar candidate: another version that takes a share of the requests.
    :ivar candidate_percent: its share.
    """

    name: str
    candidate: Optional[Deployment] = None
    candidate_percent: int = 0
    history: tuple[Deployment, ...] = ()
    updated_at: datetime

    @property
    def served(self) -> Deployment:
        """What is served, without the endpoint's past."""
        return Deployment.model_validate(self.model_dump(include=set(Deployment.model_fields)))

    @property
    def previous(self) -> Optional[Deployment]:
        """What was served before this."""
        return self.history[-1] if self.history else None

    def find(self, deployment: str) -> Optional[Deployment]:
        """The server of this id, if requests go to it: all of them, or a candidate's share."""
        at_work = (self.served, self.candidate)
        return next((server for server in at_work if server is not None and server.deployment == deployment), None)
