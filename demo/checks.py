"""What must hold after the demo, and its figures."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from airsmith.registry import Endpoint, read_endpoint
from airsmith.terminal.report import Report

MOST_EXACT_MATCH_BASE = 0.05
LEAST_EXACT_MATCH_TUNED = 0.95


def check_demo(first: Report, again: Report, console: Console) -> list[str]:
    """Check two runs of one recipe.

    :returns: one sentence for each thing that does not hold.
    """
    served = _exact_match_served(first)
    console.print(f"Exact match through the endpoint: {served:.1%} of {len(first.answers)} held-out prompts")
    held = {
        f"the base answers {first.exact_match_base:.1%} exactly, not < {MOST_EXACT_MATCH_BASE:.0%}": (
            first.exact_match_base < MOST_EXACT_MATCH_BASE
        ),
        f"the tuned model answers {first.exact_match_tuned:.1%} exactly, not ≥ {LEAST_EXACT_MATCH_TUNED:.0%}": (
            first.exact_match_tuned >= LEAST_EXACT_MATCH_TUNED
        ),
        f"the endpoint answers {served:.1%} exactly, not ≥ {LEAST_EXACT_MATCH_TUNED:.0%}": served
        >= LEAST_EXACT_MATCH_TUNED,
    }
    worked = [pointer.stage for pointer in again.stages if not pointer.cached]
    held[f"the second run did {', '.join(worked)} again"] = not worked
    return [problem for problem, holds in held.items() if not holds]


def write_result(path: Path, first: Report, again: Report, setup_seconds: float | None) -> str:
    """Write the demo's figures.

    :returns: them as one line of JSON.
    """
    result = {
        "exact_match_base": first.exact_match_base,
        "exact_match_tuned": first.exact_match_tuned,
        "seconds": {pointer.stage: pointer.seconds for pointer in first.stages},
        "setup_seconds": setup_seconds,
        "cached_run_seconds": round(again.stage_seconds, 3),
    }
    line = json.dumps(result)
    path.write_text(line + "\n")
    return line


def _exact_match_served(report: Report) -> float:
    """Share of the held-out prompts that the endpoint answers exactly."""
    recipe = report.run.read_spec().recipe
    endpoint = read_endpoint(report.run.store, recipe.endpoint_name)
    if endpoint is None:
        return 0.0
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=endpoint.current.address, timeout=60) as client:
        answers = pool.map(
            lambda row: _ask(client, endpoint, row["messages"], recipe.evaluate.max_new_tokens), report.answers
        )
        right = [answer == row["expected"].strip() for answer, row in zip(answers, report.answers, strict=True)]
    return sum(right) / len(right)


def _ask(client: httpx.Client, endpoint: Endpoint, messages: list[dict[str, Any]], max_tokens: int) -> str:
    request = {"model": endpoint.current.model_name, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    response = client.post("/v1/chat/completions", json=request)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"]).strip()
