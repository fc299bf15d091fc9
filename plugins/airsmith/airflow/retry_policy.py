"""The retry table of `errors/retries.py` as an Airflow retry policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.definitions.context import Context

from airsmith.errors import AirsmithError
from airsmith.errors.retries import RETRIES, Retry
from airsmith.settings import Settings

MAX_DELAY = timedelta(minutes=10)


class RetryByKind(RetryPolicy):
    """Retry at once, back off or fail, by the kind of the error. The task's `retries` limits the number of tries.

    :param first_delay: delay before the first retry of a kind that backs off; it doubles with every try.
    """

    def __init__(self, first_delay: timedelta) -> None:
        self.first_delay = first_delay

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide by the exception's kind. Airflow decides about other exceptions, such as timeouts."""
        if not isinstance(exception, AirsmithError):
            return RetryDecision.default()
        what = RETRIES[exception.kind]
        if what is Retry.NEVER:
            return RetryDecision.fail(f"{exception.kind.value}: a retry would fail the same way")
        if what is Retry.AT_ONCE:
            return RetryDecision.retry(timedelta(0), f"{exception.kind.value}: retrying at once")
        delay = min(self.first_delay * 2 ** min(try_number - 1, 16), MAX_DELAY)
        return RetryDecision.retry(delay, f"{exception.kind.value}: retrying in {delay.total_seconds():.0f} s")


def retry_options(settings: Settings, backend: str) -> dict[str, Any]:
    """Task arguments from the settings of a backend: retries, timeout, pool."""
    chosen = settings.backend(backend)
    options: dict[str, Any] = {
        "retries": chosen.retries,
        "retry_policy": RetryByKind(timedelta(seconds=chosen.retry_delay_seconds)),
        "retry_delay": timedelta(seconds=chosen.retry_delay_seconds),
    }
    if chosen.timeout_seconds is not None:
        options["execution_timeout"] = timedelta(seconds=chosen.timeout_seconds)
    if chosen.pool is not None:
        options["pool"] = chosen.pool
    return options
