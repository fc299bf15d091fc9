"""Chat with an endpoint: streamed answers, and the equivalent curl command."""

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

REQUEST_TIMEOUT_SECONDS = 300.0
EXAMPLE_TOKENS = 64
_SHOWN_CHARACTERS = 300
KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the endpoint's API key; the same one that OpenAI's clients read."""

Message = dict[str, str]


def find_endpoint(store: Store, name: str) -> Endpoint:
    """The endpoint with this name.

    :raises AirsmithError: `not_found` if it does not exist; the hint lists the existing ones.
    """
    endpoint = read_endpoint(store, name)
    if endpoint is None:
        known = ", ".join(known.name for known in list_endpoints(store)) or "none"
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"Endpoint {name} does not exist in {store.uri}.", f"Existing endpoints: {known}."
        )
    return endpoint


def select_model(endpoint: Endpoint, model: str | None) -> Endpoint:
    """The endpoint with another of its models selected for requests.

    :param model: an adapter or the base model; the adapter that was deployed last if None.
    :raises AirsmithError: `not_found` if the endpoint does not serve the model; the hint lists those it serves.
    """
    if model is None:
        return endpoint
    current = endpoint.current
    base = [base_model_name(endpoint.name)] if current.adapters else []
    served = {current.model_name, *current.adapters, *base}
    if model not in served:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {endpoint.name} does not serve model {model}.",
            f"It serves {', '.join(sorted(served))}.",
        )
    return endpoint.with_current(model_name=model)


@contextmanager
def reachable(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint with an address that this machine can reach: its own, or that of a port forward to a pod.

    :raises AirsmithError: `not_found` if no cluster is configured, or none of the endpoint's pods is ready.
    """
    if endpoint.current.namespace is None:
        yield endpoint
        return
    from airsmith.cluster.access import cluster_client  # The import takes half a second.
    from airsmith.serving.cluster.port_forward import is_reachable, port_forwarded

    if is_reachable(endpoint):
        yield endpoint
        return
    with port_forwarded(endpoint, cluster_client()) as forwarded:
        yield forwarded


def stream_answer(endpoint: Endpoint, messages: list[Message], max_tokens: int) -> Iterator[str]:
    """The answer to a conversation, streamed in pieces.

    :raises AirsmithError: `access_denied` if the API key is missing or wrong, `not_found` if the endpoint does not
        respond, `internal` if the server reports an error after the answer has started.
    """
    request = {**_request(endpoint, messages, max_tokens), "stream": True}
    url = f"{endpoint.current.address}/v1/chat/completions"
    try:
        with httpx.stream(
            "POST", url, json=request, headers=_key_header(), timeout=REQUEST_TIMEOUT_SECONDS
        ) as response:
            if not response.is_success:
                response.read()
                raise _response_error(endpoint, response)
            for line in response.iter_lines():
                yield from _pieces(endpoint, line)
    except httpx.HTTPError as error:
        raise _unavailable(endpoint, str(error)) from error


def curl_command(endpoint: Endpoint, question: str = "Hello!") -> str:
    """A curl command that sends one question to an endpoint."""
    body = json.dumps(_request(endpoint, [{"role": "user", "content": question}], EXAMPLE_TOKENS), ensure_ascii=False)
    quoted = body.replace("'", "'\\''")
    current = endpoint.current
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if current.api_key is not None else ""
    return f"curl -s {current.address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{quoted}'"


def _key_header(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    key = environment.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _response_error(endpoint: Endpoint, response: httpx.Response) -> AirsmithError:
    if response.status_code != httpx.codes.UNAUTHORIZED:
        return _unavailable(endpoint, f"HTTP {response.status_code}: {response.text[:_SHOWN_CHARACTERS]}")
    current = endpoint.current
    place = f"in Secret {current.api_key} of namespace {current.namespace}" if current.api_key else "of its server"
    return AirsmithError(
        ErrorKind.ACCESS_DENIED,
        f"Endpoint {endpoint.name} requires an API key.",
        f"Set {KEY_VARIABLE} to the key {place}.",
    )


def _unavailable(endpoint: Endpoint, why: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.NOT_FOUND,
        f"Endpoint {endpoint.name} at {endpoint.current.address} does not respond: {why}.",
        "Deploy again: a local server stops with the machine and with `make stop`.",
    )


def _request(endpoint: Endpoint, messages: list[Message], max_tokens: int) -> dict[str, Any]:
    return {"model": endpoint.current.model_name, "messages": messages, "temperature": 0, "max_tokens": max_tokens}


def _pieces(endpoint: Endpoint, line: str) -> Iterator[str]:
    """The text in one line of server-sent events."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    event = json.loads(line.removeprefix("data: "))
    if event.get("error"):
        raise AirsmithError(
            ErrorKind.INTERNAL,
            f"Endpoint {endpoint.name} failed during its answer: {event['error']}.",
            "See the server's log.",
        )
    for choice in event.get("choices", []):
        if choice.get("delta", {}).get("content"):
            yield choice["delta"]["content"]
