"""Checkpoints in the store: published atomically, found by step, verified before use.

Each rank writes its own files; the manifest, written last, completes the checkpoint.
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
from airsmith.contracts.stages import toolchain_for
from airsmith.errors import AirsmithError, ErrorKind
from airsmith_stages.checkpoint_folders import UNUSABLE, CheckpointFolders
from airsmith_stages.stage_context import StageContext
from airsmith_stages.training.distributed import SINGLE_PROCESS, DistributedContext
from airsmith_stages.training.distributed_artifact import Content, add_from_all_ranks

log = logging.getLogger("airsmith")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one key.

    :param key: digest of everything that determines the weights at a step.
    :param inputs: digests of the base model and the tokens, for the manifest.
    :param versions: versions of the software, for the manifest.
    :param distributed: all ranks must call `publish` and `restore` together.
    """

    store: Store
    key: str
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    distributed: DistributedContext = SINGLE_PROCESS

    @property
    def folders(self) -> CheckpointFolders:
        """Their folders, by step."""
        return CheckpointFolders(self.store, self.key)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that have a manifest, in ascending order."""
        return self.folders.published()

    def restore_newest(self, local_dir: Path, at_most: int | None = None) -> tuple[int, Path] | None:
        """Download the newest undamaged checkpoint, and skip damaged ones with a warning.

        :param at_most: the last step to consider: another training with this key may have trained further.
        :returns: the step and the local folder, shared by the processes of a node; None if no checkpoint is usable.
        """
        step = self.distributed.on_main_process(lambda: self._restore_undamaged(local_dir, at_most))
        return None if step is None else (step, self.restore(step, local_dir / str(step)))

    def restore(self, step: int, local_dir: Path) -> Path:
        """Download and verify one checkpoint.

        :returns: the local folder, shared by the processes of a node.
        :raises AirsmithError: `not_found` or `verification_failed`.
        """
        return self.distributed.once_per_node(lambda: self._download(step, local_dir))

    def publish(self, step: int, content: Content) -> None:
        """Publish the checkpoint of a step. An undamaged checkpoint that already exists is kept.

        :param content: the files of this rank.
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
        """Remove the folders before the newest checkpoints, published or not.

        :param until: the training's current step; checkpoints beyond it are those of another training and are kept.
        :param keep_also: step of the best checkpoint; None if it is not needed.
        """
        until_now = [step for step in self.steps() if step <= until]
        kept = {*until_now[-keep_newest:], *([] if keep_also is None else [keep_also])}
        for step in self.folders.existing():
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
                f"The checkpoint of step {step}, {self.store.uri}/{self.folders.path(step)}, no longer exists.",
                f"Delete {checkpoints_folder(self.key)} from the store and clear train to start from the beginning.",
            )
        return artifact.download(local_dir)

    def _is_kept(self, step: int) -> bool:
        """Whether a step already has an undamaged checkpoint; a damaged one is removed."""
        undamaged = self._is_undamaged(step)
        if undamaged is False:
            self.folders.remove(step)
        return bool(undamaged)

    def _is_undamaged(self, step: int) -> bool | None:
        """Whether a published checkpoint is undamaged; None if it is not published."""
        try:
            artifact = self.folders.open(step)
            if artifact is None:
                return None
            for name in artifact.names():
                for _ in artifact.stream(name):
                    pass
        except AirsmithError as error:
            if error.kind in UNUSABLE:
                return False
            raise
        return True


def checkpoints_of(context: StageContext, distributed: DistributedContext) -> Checkpoints:
    """The checkpoints of a stage's training."""
    spec, contract = context.spec, context.contract
    return Checkpoints(
        store=context.run.store,
        key=checkpoint_key(contract, spec, context.pointers),
        inputs={stage: pointer.digest for stage, pointer in context.pointers.items()},
        versions={name: spec.toolchain_version(contract.name, name) for name in toolchain_for(contract, spec.recipe)},
        distributed=distributed,
    )


@dataclass
class CheckpointUploader:
    """Publishes checkpoints in a background thread, one at a time. A failed upload stops the training at the next one.

    :param keep_newest: number of checkpoints to keep.
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
        """Wait for the last upload. Its failure is raised unless the block has already failed."""
        self._thread.shutdown(wait=True)
        if failure is None:
            self.wait()

    def submit(self, step: int, content: Callable[[], Content], local_dir: Path, best_step: int | None) -> None:
        """Publish a checkpoint in the background, remove its local folder, then prune.

        :param content: creates the files of this rank, called in the background thread.
        :param best_step: step of a checkpoint to keep in addition to the newest; None for none.
        """
        self.wait()
        self._upload = self._thread.submit(self._publish, step, content, local_dir, best_step)

    def wait(self) -> None:
        """Wait until the last checkpoint is published.

        :raises AirsmithError: if its upload failed.
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
