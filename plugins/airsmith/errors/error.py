"""The error kinds, and the exception that carries a kind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum


class ErrorKind(str, Enum):
    """Why an operation failed. The value is stored in JSON and selects the retry rule."""

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
    # Reported by the runtime, never by a stage.
    KILLED = "killed"
    EVICTED = "evicted"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    INVALID_IMAGE_NAME = "invalid_image_name"
    IMAGE_PULL_FAILED = "image_pull_failed"
    UNSCHEDULABLE = "unschedulable"
    POD_MISSING = "pod_missing"


_SECONDARY_KINDS = {ErrorKind.KILLED: 1, ErrorKind.INTERNAL: 1, ErrorKind.INTERRUPTED: 2}
"""Kinds that are often a consequence of another process's failure; the higher the number, the more often."""


class AirsmithError(Exception):
    """A failure that a user can act on.

    :param kind: selects the retry rule and the documentation page.
    :param message: what failed and why, in one sentence.
    :param hint: the remedy; empty if none is known.
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

    @property
    def page(self) -> str:
        """Path of the documentation page about errors of this kind."""
        return f"docs/errors/{self.kind.value}.md"

    def to_json_line(self) -> str:
        """The error as one line of JSON, which a failed stage prints last on stderr."""
        return json.dumps({"error": self.kind.value, "message": self.message, "hint": self.hint})

    @classmethod
    def from_json_line(cls, line: str) -> AirsmithError | None:
        """The error that a line of a stage's stderr describes; None for any other line."""
        if not line.startswith('{"error":'):
            return None
        try:
            fields = json.loads(line)
            return cls(ErrorKind(fields["error"]), str(fields["message"]), str(fields.get("hint", "")))
        except (ValueError, KeyError):
            return None


def root_cause(errors: Iterable[AirsmithError]) -> AirsmithError | None:
    """The error that most likely caused the others, out of those of cooperating processes; None if there are none."""
    return min(errors, key=lambda error: _SECONDARY_KINDS.get(error.kind, 0), default=None)
