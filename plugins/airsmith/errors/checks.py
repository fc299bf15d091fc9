"""Run several checks and report all their failures at once, so that one correction can fix them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from airsmith.errors import AirsmithError
from airsmith.errors.retries import RETRIES, Retry

Check = Callable[[], None]
"""Raises an AirsmithError if the check fails."""


def check_all(checks: Iterable[Check]) -> None:
    """Run every check.

    :raises AirsmithError: the failure; several are combined by `combine_errors`.
    """
    failures: dict[str, AirsmithError] = {}
    for check in checks:
        try:
            check()
        except AirsmithError as failure:
            failures.setdefault(str(failure), failure)
    if failures:
        raise combine_errors(list(failures.values()))


def combine_errors(failures: list[AirsmithError]) -> AirsmithError:
    """Combine failures into one error with all messages and hints; a single failure is returned unchanged.

    The kind is that of the first failure that is never retried, or of the first failure.
    """
    if len(failures) == 1:
        return failures[0]
    kind = next((failure.kind for failure in failures if RETRIES[failure.kind] is Retry.NEVER), failures[0].kind)
    lines = [f"{number}. {failure}" for number, failure in enumerate(failures, 1)]
    return AirsmithError(kind, "\n".join([f"{len(failures)} checks failed:", *lines]))
