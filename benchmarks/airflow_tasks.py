"""Values in the task instances of Airflow's API."""

from __future__ import annotations

from datetime import datetime


def timestamp(text: str) -> float:
    """A date and time of Airflow's API, in seconds since the epoch."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
