"""The closed list of ways a stage can fail, and the one exception that carries them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum


class ErrorKind(str, Enum):
    """Why something failed. The value travels in JSON; a runtime maps it to retry, back off or fail."""

    BAD_RECIPE = "bad_recipe"
    BAD_DATA = "bad_data"
    NOT_FOUND = "not_found"
    ACCESS_DENIED = "access_denied"
    STORE_UNAVAILABLE = "store_unavailable"
    HUB_UNAVAILABLE = "hub_unavailable"
    DISK_FULL = "disk_full"
    VERIFICATION_FAILED = "verification_failed"
    NON_FINITE_LOSS = "non_finite_loss"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"
    DEVICE_ERROR = "device_error"
    INTERNAL = "internal"
    # Seen from outside a stage only.
    KILLED = "killed"
    EVICTED = "evicted"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    INVALID_IMAGE_NAME = "invalid_image_name"
    IMAGE_PULL_FAILED = "image_pull_failed"
    UNSCHEDULABLE = "unschedulable"
    POD_MISSING = "pod_missing"


_TELLS_LITTLE = {ErrorKind.KILLED: 1, ErrorKind.INTERNAL: 1, ErrorKind.INTERRUPTED: 2}
"""Kinds with which processes end because another one did."""


class AirsmithError(Exception):
    """A failure that a person can act on.

    :param kind: one of the closed list.
    :param message: what failed, naming the thing and the cause, in one sentence.
    :param hint: what to do about it; empty where nothing sensible can be said.
    """

    def __init__(self, kind: ErrorKind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[type[AirsmithError], tuple[ErrorKind, str, str]]:
        return type(self), (self.kind, self.message, self.hint)

    def to_json_line(self) -> str:
        """One line of JSON, the last one that a failed stage prints on stderr."""
        return json.dumps({"error": self.kind.value, "message": self.message, "hint": self.hint})

    @classmethod
    def from_json_line(cls, line: str) -> AirsmithError | None:
        """The error that a line of a stage's stderr describes, or None where it is any other line."""
        if not line.startswith('{"error":'):
            return None
        try:
            fields = json.loads(line)
            return cls(ErrorKind(fields["error"]), str(fields["message"]), str(fields.get("hint", "")))
        except (ValueError, KeyError):
            return None


def most_telling(errors: Iterable[AirsmithError]) -> AirsmithError | None:
    """Of the errors of several that work together, the first that explains the others; None where there are none."""
    return min(errors, key=lambda error: _TELLS_LITTLE.get(error.kind, 0), default=None)
