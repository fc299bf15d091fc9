"""One exception class per kind of failure, so that a task's log, an alert or a retry rule can tell them apart."""

from __future__ import annotations

from typing import ClassVar

from airsmith.errors import AirsmithError, ErrorKind


class StageError(AirsmithError):
    """A stage has no output. Its class says what kind of failure it was."""

    failure_kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(self.failure_kind, message, hint)

    def __reduce__(self) -> tuple[type[StageError], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.message, self.hint)


class BadRecipeError(StageError):
    """The recipe, or the form's values, cannot be run."""

    failure_kind = ErrorKind.BAD_RECIPE


class BadDataError(StageError):
    """The model or the examples are not what the recipe says."""

    failure_kind = ErrorKind.BAD_DATA


class NotFoundError(StageError):
    """A model, a dataset or an artifact does not exist."""

    failure_kind = ErrorKind.NOT_FOUND


class AccessDeniedError(StageError):
    """The Hub or the store refuses the credentials."""

    failure_kind = ErrorKind.ACCESS_DENIED


class StoreUnavailableError(StageError):
    """The object store does not answer."""

    failure_kind = ErrorKind.STORE_UNAVAILABLE


class HubUnavailableError(StageError):
    """The Hugging Face Hub does not answer."""

    failure_kind = ErrorKind.HUB_UNAVAILABLE


class DiskFullError(StageError):
    """The scratch disk or the store's disk is full."""

    failure_kind = ErrorKind.DISK_FULL


class VerificationFailedError(StageError):
    """What was made or read is not what its digest says."""

    failure_kind = ErrorKind.VERIFICATION_FAILED


class NonFiniteLossError(StageError):
    """The loss became infinite or not a number."""

    failure_kind = ErrorKind.NON_FINITE_LOSS


class OutOfMemoryError(StageError):
    """Memory of the machine or of the device ran out."""

    failure_kind = ErrorKind.OUT_OF_MEMORY


class StageInterruptedError(StageError):
    """The stage was told to stop, and stopped in order."""

    failure_kind = ErrorKind.INTERRUPTED


class DeviceError(StageError):
    """The accelerator or its driver failed."""

    failure_kind = ErrorKind.DEVICE_ERROR


class InternalError(StageError):
    """A defect, most likely of Airsmith."""

    failure_kind = ErrorKind.INTERNAL


class StageKilledError(StageError):
    """The process was killed from outside."""

    failure_kind = ErrorKind.KILLED


class EvictedError(StageError):
    """The cluster evicted the pod."""

    failure_kind = ErrorKind.EVICTED


class NodeLostError(StageError):
    """The pod's node is gone."""

    failure_kind = ErrorKind.NODE_LOST


class PreemptedError(StageError):
    """Other work took the pod's place."""

    failure_kind = ErrorKind.PREEMPTED


class InvalidImageNameError(StageError):
    """The image's name is malformed."""

    failure_kind = ErrorKind.INVALID_IMAGE_NAME


class ImagePullFailedError(StageError):
    """The image could not be pulled."""

    failure_kind = ErrorKind.IMAGE_PULL_FAILED


class UnschedulableError(StageError):
    """No node took the pod in time."""

    failure_kind = ErrorKind.UNSCHEDULABLE


class PodMissingError(StageError):
    """The pod vanished."""

    failure_kind = ErrorKind.POD_MISSING


_CLASSES = {failure.failure_kind: failure for failure in StageError.__subclasses__()}


def as_stage_error(error: AirsmithError) -> StageError:
    """The error as an instance of its kind's class."""
    return error if isinstance(error, StageError) else _CLASSES[error.kind](error.message, error.hint)
