"""The retry rule of every error kind."""

from __future__ import annotations

from enum import Enum

from airsmith.errors import ErrorKind


class Retry(Enum):
    """How a runtime handles a failed stage."""

    AT_ONCE = "at_once"
    BACK_OFF = "back_off"
    NEVER = "never"


RETRIES: dict[ErrorKind, Retry] = {
    ErrorKind.BAD_RECIPE: Retry.NEVER,
    ErrorKind.BAD_DATA: Retry.NEVER,
    ErrorKind.NOT_FOUND: Retry.NEVER,
    ErrorKind.ACCESS_DENIED: Retry.NEVER,
    ErrorKind.STORE_UNAVAILABLE: Retry.BACK_OFF,
    ErrorKind.HUB_UNAVAILABLE: Retry.BACK_OFF,
    ErrorKind.DISK_FULL: Retry.NEVER,
    ErrorKind.VERIFICATION_FAILED: Retry.NEVER,
    ErrorKind.NON_FINITE_LOSS: Retry.NEVER,
    ErrorKind.OUT_OF_MEMORY: Retry.NEVER,
    ErrorKind.INTERRUPTED: Retry.AT_ONCE,
    ErrorKind.DEVICE_ERROR: Retry.BACK_OFF,
    ErrorKind.INTERNAL: Retry.NEVER,
    ErrorKind.KILLED: Retry.AT_ONCE,
    ErrorKind.EVICTED: Retry.AT_ONCE,
    ErrorKind.NODE_LOST: Retry.AT_ONCE,
    ErrorKind.PREEMPTED: Retry.BACK_OFF,
    ErrorKind.INVALID_IMAGE_NAME: Retry.NEVER,
    ErrorKind.IMAGE_PULL_FAILED: Retry.BACK_OFF,
    ErrorKind.UNSCHEDULABLE: Retry.BACK_OFF,
    ErrorKind.POD_MISSING: Retry.AT_ONCE,
}
