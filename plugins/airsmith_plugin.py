"""What Airsmith adds to Airflow. Found as an entry point of the installed package, or in a mounted plugins folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf
from airflow.sdk.plugins_manager import AirflowPlugin

from airsmith.airflow.endpoint_link import PAGES, EndpointLink
from airsmith.artifacts.layout import run_folder
from airsmith.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI


def run_uri(dag_id: str, run_id: str) -> str:
    """URI of a run's folder, for the templates of other DAGs: `{{ macros.airsmith.run_uri(dag.dag_id, run_id) }}`."""
    return f"{load_settings().store.rstrip('/')}/{run_folder(dag_id, run_id)}"


@cache
def _pages() -> FastAPI:
    """The pages of `airsmith.ui`, for users who may see Airflow's plugins."""
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
    from airflow.api_fastapi.core_api.security import requires_access_view
    from fastapi import Depends

    from airsmith.ui.endpoint_page import endpoint_pages

    return endpoint_pages(Depends(requires_access_view(AccessView.PLUGINS)))


async def pages(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """The plugin's pages, imported on the first request: workers load this plugin as well."""
    await _pages()(scope, receive, send)


class AirsmithPlugin(AirflowPlugin):
    """The one plugin."""

    name = "airsmith"
    macros = [run_uri]  # noqa: RUF012
    operator_extra_links = [EndpointLink()]  # noqa: RUF012
    fastapi_apps = [{"app": pages, "url_prefix": PAGES, "name": "Airsmith"}]  # noqa: RUF012


def _is_mounted() -> bool:
    return (Path(conf.get_mandatory_value("core", "plugins_folder")) / "airsmith_plugin.py").exists()


installed_plugin = None if _is_mounted() else AirsmithPlugin
"""The entry point: no plugin where Airflow's plugins folder has this one too, which Airflow would call an error."""
