"""References to artifacts and checkpoints: from model versions, endpoints, active runs and recent runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from airsmith.artifacts.layout import checkpoints_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output, expected_outputs
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, TRAINING
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.janitor.inventory import Records
from airsmith.janitor.runs import MAX_CONCURRENT_REQUESTS, KnownRun
from airsmith.registry import get_version, read_endpoint

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class References:
    """Referenced folders.

    :param folders: folders of artifacts.
    :param checkpoints: folders of checkpoint keys.
    """

    folders: frozenset[str] = frozenset()
    checkpoints: frozenset[str] = frozenset()

    def __or__(self, other: References) -> References:
        return References(self.folders | other.folders, self.checkpoints | other.checkpoints)

    def contain(self, path: str) -> bool:
        """Whether the folder of an artifact or a checkpoint is referenced."""
        return path in self.folders or path.rpartition("/")[0] in self.checkpoints


def registry_references(store: Store, records: Records) -> References:
    """References of versions and of endpoints, including an endpoint's canary and history.

    :raises AirsmithError: `verification_failed` if a record is damaged, because its references are unknown.
    """
    versions = _collect(records.versions, lambda folder: _of_version(store, folder.path))
    return versions | _collect(records.endpoints, lambda folder: _of_endpoint(store, folder.path))


def recent_run_references(store: Store, runs: Iterable[KnownRun]) -> References:
    """References of finished runs; runs that this version of Airsmith cannot read are skipped."""

    def references_of(known: KnownRun) -> References:
        try:
            return _pointer_references(store, known)
        except AirsmithError as error:
            if error.kind is not ErrorKind.VERIFICATION_FAILED:
                raise
            return References()

    return _collect(runs, references_of)


def active_run_references(store: Store, runs: Iterable[KnownRun]) -> References:
    """References of active runs: existing and future outputs, and the checkpoints from which they resume."""
    return _collect(runs, lambda known: _active_references(store, known))


def finished_checkpoints(store: Store, runs: Iterable[KnownRun]) -> References:
    """The checkpoints of trainings that have their output, except those of paused trials, which resume from them."""

    def references_of(known: KnownRun) -> References:
        is_paused = known.spec is not None and known.spec.stop_at_step is not None
        done = [stage for stage in TRAINING if known.has_pointer(stage) and not (is_paused and stage == "train")]
        try:
            return _to_checkpoints(*_checkpoints_of(store, known, done))
        except AirsmithError as error:
            if error.kind is not ErrorKind.VERIFICATION_FAILED:
                raise
            return References()

    return _collect(runs, references_of)


def _of_version(store: Store, path: str) -> References:
    _, name, number = path.split("/")
    version = get_version(store, name, int(number))
    return _to_folders(version.model, version.adapter, version.base_model, version.evaluation)


def _of_endpoint(store: Store, path: str) -> References:
    endpoint = read_endpoint(store, path.removeprefix("endpoints/").removesuffix(".json"))
    if endpoint is None:
        return References()
    canary = [endpoint.canary] if endpoint.canary is not None else []
    revisions = [endpoint.current, *canary, *endpoint.history]
    return _to_folders(
        *(path for found in revisions for path in (found.model_uri, found.compiled, *found.adapters.values()))
    )


def _pointer_references(store: Store, known: KnownRun) -> References:
    run = known.run(store)
    pointers = [run.pointer(stage) for stage in STAGES if known.has_pointer(stage)]
    return _to_folders(*(pointer.location for pointer in pointers if pointer is not None))


def _active_references(store: Store, known: KnownRun) -> References:
    found = _pointer_references(store, known)
    if known.spec is None:
        return found
    run = known.run(store)
    expected = _expected_outputs(run, known.spec)
    inputs = {stage: output.pointer(stage) for stage, output in expected.items() if output.found}
    checkpoints = _to_checkpoints(*_checkpoints_of(store, known), *_checkpoints(known.spec, inputs))
    sources = (known.spec.recipe.model.id, known.spec.recipe.dataset.id)
    inside = [uri.removeprefix(f"{store.uri}/") for uri in sources if uri.startswith(f"{store.uri}/")]
    outputs = [output.location for output in expected.values()]
    return found | _to_folders(*outputs, *inside) | checkpoints


def _expected_outputs(run: Run, spec: RunSpec) -> dict[str, Output]:
    """Existing and future outputs of a run's stages, up to a damaged artifact."""
    found: dict[str, Output] = {}
    try:
        found.update(expected_outputs(run, spec))
    except AirsmithError as error:
        if error.kind not in (ErrorKind.VERIFICATION_FAILED, ErrorKind.NOT_FOUND):
            raise
    return found


def _checkpoints_of(store: Store, known: KnownRun, stages: Iterable[str] = TRAINING) -> list[str]:
    """Checkpoint folders of a run's training stages whose inputs exist."""
    if known.spec is None:
        return []
    return _checkpoints(known.spec, known.run(store).input_pointers(STAGES["train"]), stages)


def _checkpoints(spec: RunSpec, pointers: Mapping[str, StagePointer], stages: Iterable[str] = TRAINING) -> list[str]:
    """Checkpoint folders of stages with these inputs; a stage with a missing input is skipped."""
    contracts = [STAGES[stage] for stage in stages if spec.plan.has(stage)]
    return [
        checkpoints_folder(checkpoint_key(contract, spec, pointers))
        for contract in contracts
        if all(source.stage in pointers for source in contract.inputs_in(spec.plan.names()) if source.affects_digest)
    ]


def _to_folders(*paths: str | None) -> References:
    """The folders of the artifacts that contain these paths."""
    return References(frozenset("/".join(path.split("/")[:3]) for path in paths if path is not None))


def _to_checkpoints(*keys: str) -> References:
    return References(checkpoints=frozenset(keys))


def _collect(items: Iterable[_Item], references_of: Callable[[_Item], References]) -> References:
    found = References()
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as pool:
        for references in pool.map(references_of, items):
            found |= references
    return found
