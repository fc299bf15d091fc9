"""One exception class per kind of failure, so that a task's log, an alert or a retry rule can tell them apart."""

from __future__ import annotations

from typing import ClassVar

from airsmith.contracts.errors import AirsmithError, ErrorKind


class StageFailure(AirsmithError):
    """A stage has no output. Its class says what kind of failure it was."""

    failure_kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(self.failure_kind, message, hint)

    def __reduce__(self) -> tuple[type[StageFailure], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.message, self.hint)


class BadRecipe(StageFailure):
    """The recipe, or the form's values, cannot be run."""

    failure_kind = ErrorKind.BAD_RECIPE


class BadData(StageFailure):
    """The model or the examples are not what the recipe says."""

    failure_kind = ErrorKind.BAD_DATA


class NotFound(StageFailure):
    """A model, a dataset or an artifact does not exist."""

    failure_kind = ErrorKind.NOT_FOUND


class AccessDenied(StageFailure):
    """The Hub or the store refuses the credentials."""

    failure_kind = ErrorKind.ACCESS_DENIED


class StoreUnavailable(StageFailure):
    """The object store does not answer."""

    failure_kind = ErrorKind.STORE_UNAVAILABLE


class HubUnavailable(StageFailure):
    """The Hugging Face Hub does not answer."""

    failure_kind = ErrorKind.HUB_UNAVAILABLE


class DiskFull(StageFailure):
    """The scratch disk or the store's disk is full."""

    failure_kind = ErrorKind.DISK_FULL


class VerificationFailed(StageFailure):
    """What was made or read is not what its digest says."""

    failure_kind = ErrorKind.VERIFICATION_FAILED


class NonFiniteLoss(StageFailure):
    """The loss became infinite or not a number."""

    failure_kind = ErrorKind.NON_FINITE_LOSS


class OutOfMemory(StageFailure):
    """Memory of the machine or of the device ran out."""

    failure_kind = ErrorKind.OUT_OF_MEMORY


class Interrupted(StageFailure):
    """The stage was told to stop, and stopped in order."""

    failure_kind = ErrorKind.INTERRUPTED


class DeviceError(StageFailure):
    """The accelerator or its driver failed."""

    failure_kind = ErrorKind.DEVICE_ERROR


class Internal(StageFailure):
    """A defect, most likely of Airsmith."""

    failure_kind = ErrorKind.INTERNAL


class Killed(StageFailure):
    """The process was killed from outside."""

    failure_kind = ErrorKind.KILLED


class Evicted(StageFailure):
    """The cluster evicted the pod."""

    failure_kind = ErrorKind.EVICTED


class NodeLost(StageFailure):
    """The pod's node is gone."""

    failure_kind = ErrorKind.NODE_LOST


class Preempted(StageFailure):
    """Other work took the pod's place."""

    failure_kind = ErrorKind.PREEMPTED


class InvalidImageName(StageFailure):
    """The image's name is malformed."""

    failure_kind = ErrorKind.INVALID_IMAGE_NAME


class ImagePullFailed(StageFailure):
    """The image could not be pulled."""

    failure_kind = ErrorKind.IMAGE_PULL_FAILED


class Unschedulable(StageFailure):
    """No node took the pod in time."""

    failure_kind = ErrorKind.UNSCHEDULABLE


class PodMissing(StageFailure):
    """The pod vanished."""

    failure_kind = ErrorKind.POD_MISSING


_CLASSES = {failure.failure_kind: failure for failure in StageFailure.__subclasses__()}


def as_failure(error: AirsmithError) -> StageFailure:
    """The error as an instance of its kind's class."""
    return error if isinstance(error, StageFailure) else _CLASSES[error.kind](error.message, error.hint)
