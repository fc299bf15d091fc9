"""Stage `smoke_test`: verify that the endpoint serves the tuned model, by the token ids that `evaluate` published."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, TypeVar

import httpx
from tokenizers import Tokenizer

from airsmith.artifacts.layout import endpoint_path
from airsmith.artifacts.read import open_artifact
from airsmith.contracts.cache import Output
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.registry import Endpoint, read_endpoint
from airsmith_stages.stage_context import StageContext

log = logging.getLogger("airsmith")

_Part = TypeVar("_Part")

KEY_VARIABLE = "OPENAI_API_KEY"
COMPARED_TOKENS = 16
MIN_AGREEMENT = 0.95
"""Below 1, because engines round bfloat16 differently, so greedy decoding may diverge."""
REQUEST_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class SmokeReport:
    """Comparison of served answers with evaluated answers.

    :param agreement: fraction of equal tokens, up to and including the first difference of each answer.
    :param differing_prompts: number of prompts for which tuned and base model differ.
    :param unlike_base: number of these prompts for which the endpoint's answer differs from the base model's.
    """

    prompts: int
    agreement: float
    differing_prompts: int
    unlike_base: int


def run(context: StageContext) -> Output:
    """Send the fixed prompts to the endpoint and compare the answers."""
    endpoint = _endpoint(context)
    evaluation = context.input("evaluate")
    fixed = json.loads(evaluation.read("fixed_prompts.json"))
    # Neither model has answered a prompt that fills all of its positions.
    prompts = [prompt for prompt in fixed if prompt["tuned_token_ids"] or prompt["base_token_ids"]]
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=endpoint.current.address, headers=headers, timeout=REQUEST_TIMEOUT_SECONDS) as client:
        _check_listed(client, endpoint)
        answers = [_ask(client, endpoint, prompt) for prompt in prompts]
    report = compare(prompts, answers, _tokenizer(context, endpoint))
    log.info(
        "Token agreement %.3f; %d of %d answers differ from the base model's",
        report.agreement,
        report.unlike_base,
        report.differing_prompts,
    )
    _verify(report, endpoint)
    with context.write_output() as output:
        output.add_bytes("smoke.json", json.dumps(asdict(report), indent=2).encode())
        return Output.of_artifact(output.publish(metrics=asdict(report)))


def compare(prompts: Sequence[dict[str, Any]], answers: Sequence[str], tokenizer: Tokenizer) -> SmokeReport:
    """Compare served texts with published token ids.

    A server returns text, whose ids may differ from the generated ids. Therefore the published ids, truncated to the
    requested number, are decoded to text and encoded again.
    """
    agreed = compared = differing = unlike = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        tuned, base = (_canonical(tokenizer, prompt[f"{name}_token_ids"]) for name in ("tuned", "base"))
        served = _ids(tokenizer, answer)
        same = _common_prefix(served, tuned)
        agreed += same
        compared += same if served == tuned else same + 1
        differing += tuned != base
        unlike += tuned != base and served != base
    return SmokeReport(len(prompts), agreed / max(1, compared), differing, unlike)


def _endpoint(context: StageContext) -> Endpoint:
    name = context.spec.recipe.endpoint_name
    endpoint = read_endpoint(context.run.store, name)
    deployed = context.pointers["deploy"]
    revision = endpoint.find(deployed.revision) if endpoint is not None else None
    if endpoint is None or revision is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"Endpoint {name} does not serve what this run deployed, according to {endpoint_path(name)}: another run "
            "has replaced it.",
            "Clear deploy to deploy this run's model again.",
        )
    return endpoint.model_copy(update={"current": revision})


def _check_listed(client: httpx.Client, endpoint: Endpoint) -> None:
    _send(client, endpoint, "GET", "/health")
    listed = _send(client, endpoint, "GET", "/v1/models")
    # `transformers serve` lists the models in the Hub's cache, which is empty here, instead of the served model.
    names = _read(listed, endpoint, lambda answer: [str(model["id"]) for model in answer["data"]])
    if names and endpoint.current.model_name not in names:
        raise _unverified(endpoint, f"it serves {', '.join(names)}, not {endpoint.current.model_name}")


def _ask(client: httpx.Client, endpoint: Endpoint, prompt: dict[str, Any]) -> str:
    length = min(COMPARED_TOKENS, max(len(prompt["tuned_token_ids"]), len(prompt["base_token_ids"])))
    request = {"model": endpoint.current.model_name, "temperature": 0, "max_tokens": length}
    if prompt["messages"] is not None:
        response = _send(client, endpoint, "POST", "/v1/chat/completions", {**request, "messages": prompt["messages"]})
        return _read(response, endpoint, lambda answer: str(answer["choices"][0]["message"]["content"] or ""))
    response = _send(client, endpoint, "POST", "/v1/completions", {**request, "prompt": prompt["prompt"]})
    return _read(response, endpoint, lambda answer: str(answer["choices"][0]["text"]))


def _send(
    client: httpx.Client, endpoint: Endpoint, method: str, path: str, body: Mapping[str, Any] | None = None
) -> httpx.Response:
    try:
        response = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise _unreachable(endpoint, str(error) or type(error).__name__) from error
    if not response.is_success:
        raise _unreachable(endpoint, f"{path} returned HTTP {response.status_code}: {response.text[:200]}")
    return response


def _read(response: httpx.Response, endpoint: Endpoint, part: Callable[[Any], _Part]) -> _Part:
    """Extract a part of a response in OpenAI's protocol."""
    try:
        return part(response.json())
    except (ValueError, LookupError, TypeError) as error:
        path = response.request.url.path
        raise _unreachable(
            endpoint, f"the response of {path} does not follow OpenAI's protocol: {response.text[:200]}"
        ) from error


def _tokenizer(context: StageContext, endpoint: Endpoint) -> Tokenizer:
    model = open_artifact(context.run.store, endpoint.current.model_uri)
    if model is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"The served model {endpoint.current.model_uri} no longer exists.", "Clear merge."
        )
    return Tokenizer.from_str(model.read("tokenizer.json").decode())


def _canonical(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    return _ids(tokenizer, tokenizer.decode(ids[:COMPARED_TOKENS], skip_special_tokens=True))


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text.strip(), add_special_tokens=False).ids)


def _common_prefix(one: list[int], other: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _verify(report: SmokeReport, endpoint: Endpoint) -> None:
    if report.differing_prompts == 0:
        raise _unverified(
            endpoint, "tuned and base model give equal answers to all fixed prompts, so they cannot be distinguished"
        )
    if report.unlike_base < report.differing_prompts:
        same = report.differing_prompts - report.unlike_base
        raise _unverified(endpoint, f"{same} of {report.differing_prompts} answers are the base model's")
    if report.agreement < MIN_AGREEMENT:
        raise _unverified(endpoint, f"only {report.agreement:.1%} of the tokens are the tuned model's")


def _unverified(endpoint: Endpoint, reason: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.VERIFICATION_FAILED,
        f"Endpoint {endpoint.name} does not serve the tuned model: {reason}.",
        f"Check the server's log and the model in {endpoint_path(endpoint.name)}.",
    )


def _unreachable(endpoint: Endpoint, reason: str) -> AirsmithError:
    return AirsmithError(
        ErrorKind.VERIFICATION_FAILED,
        f"Endpoint {endpoint.name} at {endpoint.current.address} does not answer: {reason}.",
        "Clear deploy to start the server again.",
    )
