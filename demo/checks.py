"""Checks of the demo's results, and its measurements."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from airsmith.registry import Endpoint, read_endpoint
from airsmith.terminal.report import Report

MAX_EXACT_MATCH_BASE = 0.05
MIN_EXACT_MATCH_TUNED = 0.95


def check_demo(first: Report, second: Report, console: Console) -> list[str]:
    """Check two runs of one recipe.

    :param second: the run after `first`, in which every stage must be cached.
    :returns: one sentence for each failed check.
    """
    served = _exact_match_served(first)
    console.print(f"Exact match of the endpoint: {served:.1%} of {len(first.answers)} held-out prompts")
    passed = {
        f"exact match of the base model is {first.exact_match_base:.1%}, expected < {MAX_EXACT_MATCH_BASE:.0%}": (
            first.exact_match_base < MAX_EXACT_MATCH_BASE
        ),
        f"exact match of the tuned model is {first.exact_match_tuned:.1%}, expected ≥ {MIN_EXACT_MATCH_TUNED:.0%}": (
            first.exact_match_tuned >= MIN_EXACT_MATCH_TUNED
        ),
        f"exact match of the endpoint is {served:.1%}, expected ≥ {MIN_EXACT_MATCH_TUNED:.0%}": served
        >= MIN_EXACT_MATCH_TUNED,
    }
    rerun = [pointer.stage for pointer in second.stages if not pointer.cached]
    passed[f"the second run executed {', '.join(rerun)} instead of reusing the output"] = not rerun
    return [problem for problem, ok in passed.items() if not ok]


def write_result(path: Path, first: Report, second: Report, setup_seconds: float | None) -> str:
    """Write the demo's measurements.

    :returns: one line of JSON.
    """
    result = {
        "exact_match_base": first.exact_match_base,
        "exact_match_tuned": first.exact_match_tuned,
        "seconds": {pointer.stage: pointer.seconds for pointer in first.stages},
        "setup_seconds": setup_seconds,
        "cached_run_seconds": round(second.stage_seconds, 3),
    }
    line = json.dumps(result)
    path.write_text(line + "\n")
    return line


def _exact_match_served(report: Report) -> float:
    """Share of the held-out prompts for which the endpoint's answer equals the expected one."""
    recipe = report.run.read_spec().recipe
    endpoint = read_endpoint(report.run.store, recipe.endpoint_name)
    if endpoint is None:
        return 0.0
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=endpoint.current.address, timeout=60) as client:
        answers = pool.map(
            lambda row: _chat(client, endpoint, row["messages"], recipe.evaluate.max_new_tokens), report.answers
        )
        correct = [answer == row["expected"].strip() for answer, row in zip(answers, report.answers, strict=True)]
    return sum(correct) / len(correct)


def _chat(client: httpx.Client, endpoint: Endpoint, messages: list[dict[str, Any]], max_tokens: int) -> str:
    request = {"model": endpoint.current.model_name, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    response = client.post("/v1/chat/completions", json=request)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"]).strip()
