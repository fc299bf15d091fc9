"""Several checks told as one: who has to mend things wants to hear of all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from airsmith.errors import AirsmithError
from airsmith.errors.retries import RETRIES, Retry

Check = Callable[[], None]
"""Raises an AirsmithError where something is wrong."""


def check_all(checks: Iterable[Check]) -> None:
    """Make every check.

    :raises AirsmithError: what has failed; of several the kind that no retry helps against, and all their remedies.
    """
    failures: dict[str, AirsmithError] = {}
    for check in checks:
        try:
            check()
        except AirsmithError as failure:
            failures.setdefault(str(failure), failure)
    if failures:
        raise told_together(list(failures.values()))


def told_together(failures: list[AirsmithError]) -> AirsmithError:
    """Several failures as one; one alone stays as it is."""
    if len(failures) == 1:
        return failures[0]
    kind = next((failure.kind for failure in failures if RETRIES[failure.kind] is Retry.NEVER), failures[0].kind)
    lines = [f"{number}. {failure}" for number, failure in enumerate(failures, 1)]
    return AirsmithError(kind, "\n".join([f"{len(failures)} things are wrong:", *lines]))
