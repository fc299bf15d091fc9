"""Checkpoints in the store: published whole or not at all, found by number, trusted only after verification.

Several processes each write what they hold; one manifest, written last, makes it one checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from airsmith.artifacts.layout import checkpoints_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.digests import checkpoint_key
from airsmith.contracts.stages import toolchain_on
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.checkpoint_folders import DAMAGE, CheckpointFolders
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.distributed import SINGLE_PROCESS, DistributedContext
from airsmith_stages.training.distributed_artifact import Content, add_from_all_ranks

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one key.

    :param key: digest of what determines the weights at a step.
    :param inputs: digests of what is trained from and on, for the manifest.
    :param versions: versions of the software, for the manifest.
    :param distributed: those that train together. All of them must publish and restore at the same time.
    """

    store: Store
    key: str
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    distributed: DistributedContext = SINGLE_PROCESS

    @property
    def folders(self) -> CheckpointFolders:
        """Where they lie, by step."""
        return CheckpointFolders(self.store, self.key)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that have a manifest, in numeric order."""
        return self.folders.published()

    def restore_newest(self, local_dir: Path, at_most: int | None = None) -> tuple[int, Path] | None:
        """Copy the newest checkpoint that is undamaged to the local disk; a damaged one is passed over with a warning.

        :param at_most: the last step that counts: another training of this key may have gone further.
        :returns: its step and its local folder, which the processes of a node share, or None where there is nothing to
            go on from.
        """
        step = self.distributed.on_main_process(lambda: self._restore_undamaged(local_dir, at_most))
        return None if step is None else (step, self.restore(step, local_dir / str(step)))

    def restore(self, step: int, local_dir: Path) -> Path:
        """Copy one checkpoint to the local disk, verified.

        :returns: its local folder, which the processes of a node share.
        :raises AirsmithError: `not_found` or `verification_failed`.
        """
        return self.distributed.once_per_node(lambda: self._download(step, local_dir))

    def publish(self, step: int, content: Content) -> None:
        """Publish the checkpoint of a step. One that is there already and whole is kept as it is.

        :param content: what this process adds to it.
        """
        distributed, group = self.distributed, self.distributed.upload_group
        if distributed.on_main_process(lambda: self._is_kept(step), group):
            return
        with write_artifact(
            self.store,
            self.folders.path(step),
            type="checkpoint",
            digest=self.key,
            inputs=self.inputs,
            versions=self.versions,
        ) as writer:
            add_from_all_ranks(writer, content, distributed, group)
            distributed.on_main_process(lambda: writer.publish(metrics={"step": step}).digest, group)

    def prune(self, until: int, keep_newest: int, keep_also: int | None) -> None:
        """Remove what came before the newest checkpoints, complete or not.

        :param until: step of the training that prunes; what another has saved that went further is not its own.
        :param keep_also: step of the best checkpoint, where that is still needed.
        """
        until_now = [step for step in self.steps() if step <= until]
        kept = {*until_now[-keep_newest:], *([] if keep_also is None else [keep_also])}
        for step in self.folders.begun():
            if step < until and step not in kept:
                self.folders.remove(step)

    def _restore_undamaged(self, local_dir: Path, at_most: int | None) -> int | None:
        def copy(step: int, checkpoint: Artifact) -> int:
            if not (local_dir / str(step)).exists():
                checkpoint.download(local_dir / str(step))
            return step

        def discard(step: int) -> None:
            shutil.rmtree(local_dir / str(step), ignore_errors=True)

        return self.folders.restore_newest(copy, discard, at_most)

    def _download(self, step: int, local_dir: Path) -> Path:
        if local_dir.exists():
            return local_dir
        artifact = self.folders.open(step)
        if artifact is None:
            raise AirsmithError(
                ErrorKind.NOT_FOUND,
                f"The checkpoint of step {step}, {self.store.uri}/{self.folders.path(step)}, is gone.",
                f"Delete {checkpoints_folder(self.key)} from the store and clear train, so that it begins anew.",
            )
        return artifact.download(local_dir)

    def _is_kept(self, step: int) -> bool:
        """Whether a step has a whole checkpoint already; a damaged one is removed."""
        whole = self._is_whole(step)
        if whole is False:
            self.folders.remove(step)
        return bool(whole)

    def _is_whole(self, step: int) -> bool | None:
        """Whether a published checkpoint is undamaged; None where there is none."""
        try:
            artifact = self.folders.open(step)
            if artifact is None:
                return None
            for name in artifact.names():
                for _ in artifact.stream(name):
                    pass
        except AirsmithError as error:
            if error.kind in DAMAGE:
                return False
            raise
        return True


def checkpoints_of(context: StageContext, distributed: DistributedContext) -> Checkpoints:
    """The checkpoints of the training that a stage is."""
    spec, contract = context.spec, context.contract
    return Checkpoints(
        store=context.run.store,
        key=checkpoint_key(contract, spec, context.pointers),
        inputs={stage: pointer.digest for stage, pointer in context.pointers.items()},
        versions={name: spec.toolchain_version(contract.name, name) for name in toolchain_on(contract, spec.recipe)},
        distributed=distributed,
    )


@dataclass
class CheckpointUploader:
    """Publishes checkpoints beside the training, one at a time. An upload that failed stops the training at the next.

    :param keep_newest: checkpoints that stay.
    """

    checkpoints: Checkpoints
    keep_newest: int
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
    )
    _upload: Future[None] | None = None

    def __enter__(self) -> CheckpointUploader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the last upload end. Its failure is raised where nothing else has failed before it."""
        self._thread.shutdown(wait=True)
        if failure is None:
            self.wait()

    def submit(self, step: int, content: Callable[[], Content], local_dir: Path, best_step: int | None) -> None:
        """Publish a checkpoint, remove its local folder, then prune.

        :param content: makes what this process adds to it, later and beside the training.
        :param best_step: checkpoint that stays although it is not among the newest.
        """
        self.wait()
        self._upload = self._thread.submit(self._publish, step, content, local_dir, best_step)

    def wait(self) -> None:
        """Return when the last checkpoint is whole in the store.

        :raises AirsmithError: what its upload failed with.
        """
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.result()

    def _publish(self, step: int, content: Callable[[], Content], local_dir: Path, best_step: int | None) -> None:
        self.checkpoints.publish(step, content())
        shutil.rmtree(local_dir)
        if self.checkpoints.distributed.is_main_process:
            self.checkpoints.prune(step, self.keep_newest, best_step)
        log.info("Published the checkpoint of step %d", step)
