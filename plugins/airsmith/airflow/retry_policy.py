"""What Airflow does about a failed stage: the table of `contracts/retries.py` as a retry policy."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import RetryDecision, RetryPolicy
from airflow.sdk.definitions.context import Context

from airsmith.errors import AirsmithError
from airsmith.errors.retries import RETRIES, Retry

LONGEST_DELAY = timedelta(minutes=10)


class RetryByKind(RetryPolicy):
    """Retry at once, back off or fail, by the kind of the error. How often is the task's own `retries`.

    :param first_delay: wait before the first retry of a failure that backs off; doubled with every try.
    """

    def __init__(self, first_delay: timedelta) -> None:
        self.first_delay = first_delay

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide by the exception's kind; what is no `AirsmithError`, a timeout for example, is Airflow's to decide."""
        if not isinstance(exception, AirsmithError):
            return RetryDecision.default()
        what = RETRIES[exception.kind]
        if what is Retry.NEVER:
            return RetryDecision.fail(f"{exception.kind.value}: trying again would end the same way")
        if what is Retry.AT_ONCE:
            return RetryDecision.retry(timedelta(0), f"{exception.kind.value}: trying again at once")
        delay = min(self.first_delay * 2 ** min(try_number - 1, 16), LONGEST_DELAY)
        return RetryDecision.retry(delay, f"{exception.kind.value}: trying again in {delay.total_seconds():.0f} s")
