"""What is pointed to: by the versions of models, by endpoints, by the runs at work and those of late."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from airsmith.artifacts.layout import checkpoints_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output, outputs_ahead
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, TRAINING
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.inventory import Records
from airsmith.janitor.runs import REQUESTS_AT_ONCE, KnownRun
from airsmith.registry import Deployment, get_version, read_endpoint

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class References:
    """Folders that somebody points to.

    :param folders: of artifacts.
    :param checkpoints: of checkpoint keys.
    """

    folders: frozenset[str] = frozenset()
    checkpoints: frozenset[str] = frozenset()

    def __or__(self, other: References) -> References:
        return References(self.folders | other.folders, self.checkpoints | other.checkpoints)

    def hold(self, path: str) -> bool:
        """Whether the folder of an artifact or a checkpoint must stay."""
        return path in self.folders or path.rpartition("/")[0] in self.checkpoints


def registry_references(store: Store, records: Records) -> References:
    """What versions and endpoints point to, the versions that an endpoint can go back to and share with among them.

    :raises AirsmithError: `verification_failed` where a record cannot be understood: what it points to is unknown.
    """
    versions = _gathered(records.versions, lambda folder: _of_version(store, folder.path))
    return versions | _gathered(records.endpoints, lambda folder: _of_endpoint(store, folder.path))


def references_of_late(store: Store, runs: Iterable[KnownRun]) -> References:
    """What runs point to that are over, as far as this version of Airsmith understands them."""

    def pointed_to(known: KnownRun) -> References:
        try:
            return _pointed_to(store, known)
        except AirsmithError as error:
            if error.kind is not ErrorKind.VERIFICATION_FAILED:
                raise
            return References()

    return _gathered(runs, pointed_to)


def references_of_work(store: Store, runs: Iterable[KnownRun]) -> References:
    """What runs at work point to, will find in the store, are making now, and go on from."""
    return _gathered(runs, lambda known: _needed(store, known))


def finished_checkpoints(store: Store, runs: Iterable[KnownRun]) -> References:
    """The checkpoints of trainings that have their output. A trial that has paused goes on from its own."""

    def of(known: KnownRun) -> References:
        is_paused = known.spec is not None and known.spec.stop_at_step is not None
        done = [stage for stage in TRAINING if known.has_pointer(stage) and not (is_paused and stage == "train")]
        try:
            return _to_checkpoints(*_checkpoints_of(store, known, done))
        except AirsmithError as error:
            if error.kind is not ErrorKind.VERIFICATION_FAILED:
                raise
            return References()

    return _gathered(runs, of)


def _of_version(store: Store, path: str) -> References:
    _, name, number = path.split("/")
    version = get_version(store, name, int(number))
    return _to_folders(version.model, version.adapter, version.base_model, version.evaluation)


def _of_endpoint(store: Store, path: str) -> References:
    endpoint = read_endpoint(store, path.removeprefix("endpoints/").removesuffix(".json"))
    if endpoint is None:
        return References()
    served: list[Deployment] = [endpoint, *endpoint.history]
    served += [endpoint.candidate] if endpoint.candidate is not None else []
    return _to_folders(*(path for one in served for path in (one.model_uri, one.compiled, *one.adapters.values())))


def _pointed_to(store: Store, known: KnownRun) -> References:
    run = known.run(store)
    pointers = [run.pointer(stage) for stage in STAGES if known.has_pointer(stage)]
    return _to_folders(*(pointer.location for pointer in pointers if pointer is not None))


def _needed(store: Store, known: KnownRun) -> References:
    found = _pointed_to(store, known)
    if known.spec is None:
        return found
    run = known.run(store)
    ahead = _ahead(run, known.spec)
    inputs = {stage: output.pointer(stage) for stage, output in ahead.items() if output.found}
    checkpoints = _to_checkpoints(*_checkpoints_of(store, known), *_checkpoints(known.spec, inputs))
    sources = (known.spec.recipe.model.id, known.spec.recipe.dataset.id)
    inside = [uri.removeprefix(f"{store.uri}/") for uri in sources if uri.startswith(f"{store.uri}/")]
    outputs = [output.location for output in ahead.values()]
    return found | _to_folders(*outputs, *inside) | checkpoints


def _ahead(run: Run, spec: RunSpec) -> dict[str, Output]:
    """What the run's stages have made or will make; what follows a damaged artifact is not reached."""
    found: dict[str, Output] = {}
    try:
        found.update(outputs_ahead(run, spec))
    except AirsmithError as error:
        if error.kind not in (ErrorKind.VERIFICATION_FAILED, ErrorKind.NOT_FOUND):
            raise
    return found


def _checkpoints_of(store: Store, known: KnownRun, stages: Iterable[str] = TRAINING) -> list[str]:
    """Folders of a run's checkpoints, of those stages whose inputs are there."""
    if known.spec is None:
        return []
    return _checkpoints(known.spec, known.run(store).input_pointers(STAGES["train"]), stages)


def _checkpoints(spec: RunSpec, pointers: Mapping[str, StagePointer], stages: Iterable[str] = TRAINING) -> list[str]:
    """Folders of the checkpoints of stages with these inputs, which are all a training's; none where one is missing."""
    contracts = [STAGES[stage] for stage in stages if spec.plan.has(stage)]
    return [
        checkpoints_folder(checkpoint_key(contract, spec, pointers))
        for contract in contracts
        if all(source.stage in pointers for source in contract.inputs_among(spec.plan.names()) if source.determines)
    ]


def _to_folders(*paths: str | None) -> References:
    """The artifacts' folders that paths lead to or into."""
    return References(frozenset("/".join(path.split("/")[:3]) for path in paths if path is not None))


def _to_checkpoints(*keys: str) -> References:
    return References(checkpoints=frozenset(keys))


def _gathered(items: Iterable[_Item], references_of: Callable[[_Item], References]) -> References:
    found = References()
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for references in pool.map(references_of, items):
            found |= references
    return found
