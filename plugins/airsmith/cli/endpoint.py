"""`airsmith chat`, `stop`, `roll-back` and `scale`."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from airsmith.cli.app import app


@app.command("chat")
def chat(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint.")],
    model: Annotated[Optional[str], typer.Option(help="Model, if the endpoint serves several.")] = None,
    max_tokens: int = 256,
) -> None:
    """Chat with an endpoint from any machine with access. An empty line or Ctrl-D ends the chat."""
    from airsmith.artifacts.store import Store
    from airsmith.serving.chat import Message, find_endpoint, reachable, select_model, stream_answer
    from airsmith.settings import load_settings

    messages: list[Message] = []
    selected = select_model(find_endpoint(Store.open(load_settings().store), endpoint), model)
    with reachable(selected) as found:
        while question := _question():
            messages.append({"role": "user", "content": question})
            answer = ""
            for piece in stream_answer(found, messages, max_tokens):
                answer += piece
                print(piece, end="", flush=True)
            print()
            messages.append({"role": "assistant", "content": answer})


@app.command("stop")
def stop(endpoint: Annotated[str, typer.Argument(help="Name of an endpoint.")]) -> None:
    """Stop an endpoint on this machine or delete its objects in the cluster."""
    from airsmith.artifacts.store import Store
    from airsmith.serving.chat import find_endpoint
    from airsmith.settings import load_settings

    store = Store.open(load_settings().store)
    found = find_endpoint(store, endpoint)
    if found.current.namespace is None:
        from airsmith.serving.local.endpoint import stop_endpoint

        stopped = stop_endpoint(store, found.name)
    else:
        from airsmith.cluster.access import cluster_client
        from airsmith.serving.cluster import endpoint as kubernetes

        stopped = kubernetes.stop(store, found.name, cluster_client())
    print(f"Stopped {endpoint}." if stopped else f"{endpoint} was not running.")


@app.command("roll-back")
def roll_back(endpoint: Annotated[str, typer.Argument(help="Name of an endpoint in the cluster.")]) -> None:
    """Delete an endpoint's canary or, if it has none, make its previous version current."""
    from airsmith.artifacts.store import Store
    from airsmith.cluster.access import cluster_client
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.settings import load_settings

    settings = load_settings()
    updated = kubernetes.roll_back(Store.open(settings.store), endpoint, settings, cluster_client())
    print(f"{endpoint} serves version {updated.current.version}.")


@app.command("scale")
def scale(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint in the cluster.")],
    replicas: Annotated[int, typer.Argument(min=1, help="Number of replicas.")],
) -> None:
    """Set the number of an endpoint's replicas and wait until all are available."""
    from airsmith.artifacts.store import Store
    from airsmith.cluster.access import cluster_client
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.settings import load_settings

    kubernetes.scale(Store.open(load_settings().store), endpoint, replicas, cluster_client())
    print(f"{endpoint} has {replicas} replica{'s' if replicas > 1 else ''}.")


def _question() -> str:
    try:
        return input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
