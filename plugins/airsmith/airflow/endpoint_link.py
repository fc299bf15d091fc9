"""The button on a deploying task that opens its endpoint's page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf

PAGES = "/airsmith"
"""Where Airflow's API server has the pages of `airsmith.ui`."""


class EndpointLink(BaseOperatorLink):
    """A button on a task that deploys: to the page of what it has deployed, with the line for curl."""

    name = "Endpoint"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Path of the page on Airflow's API server, empty before anything is deployed."""
        endpoint = getattr(operator, "endpoint", "")
        prefix = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
        return f"{prefix}{PAGES}/endpoints/{endpoint}" if endpoint else ""
