"""`airsmith janitor`."""

from __future__ import annotations

from typing import Annotated

import typer

from airsmith.cli.app import app


@app.command("janitor")
def tidy(
    delete: Annotated[
        list[str],
        typer.Option(metavar="KIND", help="Remove this kind: unfinished, uploads, endpoints, checkpoints or caches."),
    ] = [],  # noqa: B006
) -> None:
    """Say what nobody needs any more in the store and, of endpoints, in the cluster; Airflow is not asked."""
    from airsmith.janitor.rounds import checked_kinds, make_round
    from airsmith.settings import load_settings

    settings, told = load_settings(), checked_kinds(delete)
    client = None
    if settings.uses_cluster:
        from airsmith.cluster.access import cluster_client

        client = cluster_client()
    for section in make_round(settings, told, client, airflow=None):
        for line in section.lines():
            print(line)
