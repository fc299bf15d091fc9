"""One exception class per error kind, so that task logs, alerts and retry rules can distinguish them."""

from __future__ import annotations

from typing import ClassVar

from airsmith.errors import AirsmithError, ErrorKind


class StageError(AirsmithError):
    """A failed stage. The subclass identifies the error kind."""

    failure_kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(self.failure_kind, message, hint)

    def __reduce__(self) -> tuple[type[StageError], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.message, self.hint)


class BadRecipeError(StageError):
    """The recipe or a setting is invalid."""

    failure_kind = ErrorKind.BAD_RECIPE


class BadDataError(StageError):
    """The model or the dataset does not match the recipe."""

    failure_kind = ErrorKind.BAD_DATA


class NotFoundError(StageError):
    """A model, a dataset or an artifact does not exist."""

    failure_kind = ErrorKind.NOT_FOUND


class AccessDeniedError(StageError):
    """The Hub, the store, the cluster or the file system denied access."""

    failure_kind = ErrorKind.ACCESS_DENIED


class StoreUnavailableError(StageError):
    """The object store failed or did not respond."""

    failure_kind = ErrorKind.STORE_UNAVAILABLE


class HubUnavailableError(StageError):
    """The Hugging Face Hub failed or did not respond."""

    failure_kind = ErrorKind.HUB_UNAVAILABLE


class DiskFullError(StageError):
    """The scratch disk or the store's disk is full."""

    failure_kind = ErrorKind.DISK_FULL


class VerificationFailedError(StageError):
    """Written or read data does not match its size, digest or schema."""

    failure_kind = ErrorKind.VERIFICATION_FAILED


class NonFiniteLossError(StageError):
    """The loss became infinite or NaN."""

    failure_kind = ErrorKind.NON_FINITE_LOSS


class OutOfMemoryError(StageError):
    """The host or the device ran out of memory."""

    failure_kind = ErrorKind.OUT_OF_MEMORY


class StageInterruptedError(StageError):
    """The stage received a stop signal and stopped gracefully."""

    failure_kind = ErrorKind.INTERRUPTED


class DeviceError(StageError):
    """The accelerator or its driver failed."""

    failure_kind = ErrorKind.DEVICE_ERROR


class InternalError(StageError):
    """Most likely a bug in Airsmith."""

    failure_kind = ErrorKind.INTERNAL


class StageKilledError(StageError):
    """Another process or the kernel killed the process."""

    failure_kind = ErrorKind.KILLED


class EvictedError(StageError):
    """The cluster evicted the pod."""

    failure_kind = ErrorKind.EVICTED


class NodeLostError(StageError):
    """The pod's node disappeared."""

    failure_kind = ErrorKind.NODE_LOST


class PreemptedError(StageError):
    """A workload with a higher priority preempted the pod."""

    failure_kind = ErrorKind.PREEMPTED


class InvalidImageNameError(StageError):
    """The image name is malformed."""

    failure_kind = ErrorKind.INVALID_IMAGE_NAME


class ImagePullFailedError(StageError):
    """The image could not be pulled."""

    failure_kind = ErrorKind.IMAGE_PULL_FAILED


class UnschedulableError(StageError):
    """The pod was not scheduled in time."""

    failure_kind = ErrorKind.UNSCHEDULABLE


class PodMissingError(StageError):
    """The pod disappeared."""

    failure_kind = ErrorKind.POD_MISSING


_CLASSES = {failure.failure_kind: failure for failure in StageError.__subclasses__()}


def as_stage_error(error: AirsmithError) -> StageError:
    """The error as an instance of its kind's class."""
    return error if isinstance(error, StageError) else _CLASSES[error.kind](error.message, error.hint)
