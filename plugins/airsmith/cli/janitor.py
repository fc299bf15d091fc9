"""`airsmith janitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from airsmith.cli.app import app


@app.command("janitor")
def tidy(
    delete: Annotated[
        list[str],
        typer.Option(metavar="KIND", help="Delete this kind: unfinished, uploads, endpoints, checkpoints or caches."),
    ] = [],  # noqa: B006
) -> None:
    """Report garbage in the store and unused endpoint Deployments in the cluster. Does not query Airflow."""
    from airsmith.janitor.rounds import check_kinds, run_janitor
    from airsmith.settings import load_settings

    settings, kinds_to_delete = load_settings(), check_kinds(delete)
    client = None
    if settings.uses_cluster:
        from airsmith.cluster.access import cluster_client

        client = cluster_client()
    for section in run_janitor(settings, kinds_to_delete, client, airflow=None):
        for line in section.lines():
            print(line)
