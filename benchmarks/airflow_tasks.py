"""What Airflow's API says of tasks."""

from __future__ import annotations

from datetime import datetime


def seconds(moment: str) -> float:
    """A moment as Airflow writes it, in seconds since the epoch."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
