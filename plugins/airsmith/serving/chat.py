"""Talk to an endpoint: streamed answers in a terminal, and the line that does it with curl."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, list_endpoints, read_endpoint
from airsmith.registry.names import base_model_name

ANSWER_SECONDS = 300.0
EXAMPLE_TOKENS = 64
_SHOWN_CHARACTERS = 300
KEY_VARIABLE = "OPENAI_API_KEY"
"""Holds the key of an endpoint that asks for one, as every client of OpenAI's protocol has it."""

Message = dict[str, str]


def find_endpoint(store: Store, name: str) -> Endpoint:
    """The endpoint of this name.

    :raises AirsmithError: `not_found`, naming those that exist.
    """
    endpoint = read_endpoint(store, name)
    if endpoint is None:
        known = ", ".join(known.name for known in list_endpoints(store)) or "none"
        raise AirsmithError(ErrorKind.NOT_FOUND, f"There is no endpoint {name} in {store.uri}.", f"There is {known}.")
    return endpoint


def asking(endpoint: Endpoint, model: str | None) -> Endpoint:
    """The endpoint as one that is asked for another of its models.

    :param model: an adapter beside the one that was deployed last, or their base; that one when None.
    :raises AirsmithError: `not_found`, naming those that it serves.
    """
    if model is None:
        return endpoint
    served = {endpoint.model_name, *endpoint.adapters, *([base_model_name(endpoint.name)] if endpoint.adapters else [])}
    if model not in served:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {endpoint.name} serves no model {model}.",
            f"It serves {', '.join(sorted(served))}.",
        )
    return endpoint.model_copy(update={"model_name": model})


@contextmanager
def reached(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint under an address that leads to it from here: its own, else one that ends in its cluster.

    :raises AirsmithError: `not_found` where this machine knows no cluster, or none of the endpoint's pods answers.
    """
    if endpoint.namespace is None:
        yield endpoint
        return
    from airsmith.cluster.access import cluster_client  # half a second of imports
    from airsmith.serving.cluster.port_forward import answers_here, forwarded

    if answers_here(endpoint):
        yield endpoint
        return
    with forwarded(endpoint, cluster_client()) as near:
        yield near


def stream_answer(endpoint: Endpoint, messages: list[Message], max_tokens: int) -> Iterator[str]:
    """The answer to a conversation, piece by piece.

    :raises AirsmithError: `access_denied` where the endpoint wants another key; `not_found` where it does not answer;
        `internal` where it breaks off.
    """
    request = {**_request(endpoint, messages, max_tokens), "stream": True}
    url = f"{endpoint.address}/v1/chat/completions"
    try:
        with httpx.stream("POST", url, json=request, headers=_key_header(), timeout=ANSWER_SECONDS) as response:
            if not response.is_success:
                response.read()
                raise _refusal(endpoint, response)
            for line in response.iter_lines():
                yield from _pieces(endpoint, line)
    except httpx.HTTPError as error:
        raise _silent(endpoint, str(error)) from error


def curl_line(endpoint: Endpoint, question: str = "Hello!") -> str:
    """A command that asks an endpoint one question."""
    body = json.dumps(_request(endpoint, [{"role": "user", "content": question}], EXAMPLE_TOKENS), ensure_ascii=False)
    quoted = body.replace("'", "'\\''")
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if endpoint.api_key is not None else ""
    return f"curl -s {endpoint.address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{quoted}'"


def _key_header(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What shows an endpoint that somebody may ask it."""
    key = environment.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _refusal(endpoint: Endpoint, response: httpx.Response) -> AirsmithError:
    if response.status_code != httpx.codes.UNAUTHORIZED:
        return _silent(endpoint, f"HTTP {response.status_code}: {response.text[:_SHOWN_CHARACTERS]}")
    place = f"Secret {endpoint.api_key} of namespace {endpoint.namespace}" if endpoint.api_key else "its deployment"
    return AirsmithError(
        ErrorKind.ACCESS_DENIED,
        f"Endpoint {endpoint.name} answers only to who has its key.",
        f"Set {KEY_VARIABLE} to what {place} holds.",
    )


def _silent(endpoint: Endpoint, why: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.NOT_FOUND,
        f"Endpoint {endpoint.name} at {endpoint.address} does not answer: {why}.",
        "Run the recipe's deploy again; a server ends with the machine or with `make stop`.",
    )


def _request(endpoint: Endpoint, messages: list[Message], max_tokens: int) -> dict[str, Any]:
    return {"model": endpoint.model_name, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def _pieces(endpoint: Endpoint, line: str) -> Iterator[str]:
    """The text in one line of server-sent events."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    event = json.loads(line.removeprefix("data: "))
    if event.get("error"):
        raise AirsmithError(
            ErrorKind.INTERNAL,
            f"Endpoint {endpoint.name} broke off its answer: {event['error']}.",
            "See its server's log.",
        )
    for choice in event.get("choices", []):
        if choice.get("delta", {}).get("content"):
            yield choice["delta"]["content"]
