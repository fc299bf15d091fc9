"""`airsmith chat`, `stop`, `roll-back` and `scale`."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from airsmith.cli.app import app


@app.command("chat")
def chat(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint.")],
    model: Annotated[Optional[str], typer.Option(help="One of several that it serves.")] = None,
    max_tokens: int = 256,
) -> None:
    """Talk to a served model, from wherever; an empty line or Ctrl-D ends it."""
    from airsmith.artifacts.store import Store
    from airsmith.serving.chat import Message, asking, find_endpoint, reached, stream_answer
    from airsmith.settings import load_settings

    messages: list[Message] = []
    asked = asking(find_endpoint(Store.open(load_settings().store), endpoint), model)
    with reached(asked) as found:
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
    """End an endpoint's servers, on this machine or in its cluster."""
    from airsmith.artifacts.store import Store
    from airsmith.serving.chat import find_endpoint
    from airsmith.settings import load_settings

    store = Store.open(load_settings().store)
    found = find_endpoint(store, endpoint)
    if found.namespace is None:
        from airsmith.serving.local.endpoint import stop_endpoint

        stopped = stop_endpoint(store, found.name)
    else:
        from airsmith.cluster.access import cluster_client
        from airsmith.serving.cluster import endpoint as kubernetes

        stopped = kubernetes.stop(store, found.name, cluster_client())
    print(f"Stopped {endpoint}." if stopped else f"{endpoint} was not running.")


@app.command("roll-back")
def roll_back(endpoint: Annotated[str, typer.Argument(help="Name of an endpoint in the cluster.")]) -> None:
    """Serve what an endpoint served before; a version beside another one is withdrawn, no more."""
    from airsmith.artifacts.store import Store
    from airsmith.cluster.access import cluster_client
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.settings import load_settings

    settings = load_settings()
    served = kubernetes.roll_back(Store.open(settings.store), endpoint, settings, cluster_client())
    print(f"{endpoint} serves version {served.version}.")


@app.command("scale")
def scale(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint in the cluster.")],
    servers: Annotated[int, typer.Argument(min=1, help="How many servers it is to have.")],
) -> None:
    """Change how many servers an endpoint has, and wait for them."""
    from airsmith.artifacts.store import Store
    from airsmith.cluster.access import cluster_client
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.settings import load_settings

    kubernetes.scale(Store.open(load_settings().store), endpoint, servers, cluster_client())
    print(f"{endpoint} has {servers} server{'s' if servers > 1 else ''}.")


def _question() -> str:
    try:
        return input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
