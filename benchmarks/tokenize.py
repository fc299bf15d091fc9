"""The stage `tokenize` compared with TRL's preprocessing, and with a `datasets` map plus TRL's packing: `make bench`.

All arms make rows of 2048 tokens from the same conversations with the same tokenizer, chat template and mask. The time
of the stage also includes verifying its input, detecting leakage, and publishing files with digests.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES, TOKENIZER
from benchmarks.arms import Arm, Measured, measure, paired_ratio, run, scratch_folder
from benchmarks.claims import Goal, report
from benchmarks.stage_runs import give, write_spec

CONVERSATIONS = int(os.environ.get("BENCHMARK_CONVERSATIONS", "100000"))
FEW_CONVERSATIONS = 1000
"""Few enough that an arm's time is its startup time."""
MAX_LENGTH = 2048
PEER_PYTHON = Path(".venvs/benchmarks/bin/python")


def main() -> int:
    """Measure each arm's startup time, its time for all conversations, and the stage's fill at other row lengths."""
    folder = scratch_folder() / "tokenize"
    shutil.rmtree(folder, ignore_errors=True)
    _write_corpus(folder / "many", CONVERSATIONS)
    _write_corpus(folder / "few", FEW_CONVERSATIONS)
    starts = measure(_arms(folder / "few"), repetitions=3)
    runs = measure(_arms(folder / "many"), repetitions=5, warm_ups=0)
    facts = {name: json.loads((folder / "many" / f"{name}.json").read_text()) for name in runs}
    fills = {MAX_LENGTH: facts["airsmith"]["fill"]} | {
        length: _fill(folder / "many", length) for length in (1024, 4096)
    }
    shutil.rmtree(folder)
    report(
        "tokenize",
        f"{CONVERSATIONS} conversations, {facts['airsmith']['tokens'] / 1e6:.1f} million tokens, rows of {MAX_LENGTH}",
        runs,
        _goals(runs, starts, facts, fills),
        made=facts,
        fill_by_length=fills,
        tokens_per_second={
            name: facts[name]["tokens"] / statistics.median(one.seconds for one in measured)
            for name, measured in runs.items()
        },
        start_seconds={name: statistics.median(one.seconds for one in measured) for name, measured in starts.items()},
    )
    return 0


def _write_corpus(folder: Path, conversations: int) -> None:
    """Write the corpus in another process: an arm's peak memory is at least the memory of this process."""
    command = [sys.executable, "-m", "benchmarks.tokenize_corpus", str(folder), str(conversations)]
    subprocess.run(command, check=True)


def _arms(corpus: Path) -> list[Arm]:
    made = partial(_made, corpus, MAX_LENGTH)
    return [
        Arm("airsmith", _stage_command(corpus), before=partial(_prepare_stage, corpus, MAX_LENGTH), after=made),
        *(_peer(name, corpus) for name in ("trl", "datasets")),
    ]


def _peer(name: str, corpus: Path) -> Arm:
    cache, facts = corpus / "cache", corpus / f"{name}.json"
    command = [PEER_PYTHON, "-m", "benchmarks.tokenize_peers", name, corpus, str(MAX_LENGTH), facts]
    return Arm(
        name,
        [str(part) for part in command],
        before=lambda: shutil.rmtree(cache, ignore_errors=True),
        after=lambda: _check_same_work(corpus, name),
        environment={"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )


def _check_same_work(corpus: Path, name: str) -> None:
    """Compare a peer's tokens with the stage's, which drops the ends of examples that contain no trained token.

    :raises RuntimeError: the numbers of tokens differ by more than a thousandth.
    """
    ours, theirs = (json.loads((corpus / f"{one}.json").read_text())["tokens"] for one in ("airsmith", name))
    if abs(ours - theirs) > ours / 1000:
        raise RuntimeError(f"{name} made {theirs} tokens, but Airsmith {ours}.")


def _stage_command(corpus: Path) -> list[str]:
    return [sys.executable, "-m", "airsmith_stages.cli", "tokenize", "--run", _run_of(corpus).uri]


def _run_of(corpus: Path) -> Run:
    return Run(Store.open(f"file://{corpus}/store"), "runs/benchmark/tokenize")


def _prepare_stage(corpus: Path, max_length: int) -> None:
    """Write a run with mirrored inputs into an empty store, in which no cached output exists."""
    shutil.rmtree(corpus / "store", ignore_errors=True)
    run = _run_of(corpus)
    dataset = {
        "id": "benchmark/conversations",
        "validation_split": "validation",
        "packing": "isolated",
        "overflow": "truncate",
        "max_length": max_length,
    }
    write_spec(run, "tokenize", {"id": "benchmark/model"}, dataset)
    _give(run, "mirror_model", corpus / "model", {TOKENIZER: "benchmark"})
    _give(run, "mirror_dataset", corpus / "dataset", {})


def _give(run: Run, stage: str, folder: Path, properties: dict[str, str]) -> None:
    kind = STAGES[stage].output
    with write_artifact(
        run.store, f"artifacts/{kind}/{stage}", type=kind, digest=stage, inputs={}, versions={}
    ) as writer:
        writer.add_folder(folder)
        give(run, stage, writer.publish(properties=properties))


def _made(corpus: Path, max_length: int) -> None:
    """Write the stage's results in the format of the peers."""
    index = json.loads(_tokens(corpus).read("index.json"))
    train, report_of_train = index["splits"]["train"], index["report"]["train"]
    facts = {
        "tokens": train["tokens"],
        "rows": train["rows"],
        "fill": train["tokens"] / (train["rows"] * max_length),
        "dropped_tokens": report_of_train["dropped_tokens"],
        "unreported_tokens": report_of_train["read_tokens"] - report_of_train["dropped_tokens"] - train["tokens"],
    }
    (corpus / "airsmith.json").write_text(json.dumps(facts))


def _tokens(corpus: Path) -> Artifact:
    run = _run_of(corpus)
    pointer = run.pointer("tokenize")
    artifact = open_artifact(run.store, pointer.location) if pointer else None
    if artifact is None:
        raise RuntimeError("The stage published no artifact.")
    return artifact


def _fill(corpus: Path, max_length: int) -> float:
    """The fill of the stage's rows at another length."""
    _prepare_stage(corpus, max_length)
    run(Arm("airsmith", _stage_command(corpus)))
    _made(corpus, max_length)
    return float(json.loads((corpus / "airsmith.json").read_text())["fill"])


def _goals(
    runs: dict[str, list[Measured]], starts: dict[str, list[Measured]], facts: dict[str, Any], fills: dict[int, float]
) -> list[Goal]:
    peers = [name for name in runs if name != "airsmith"]
    min_ratio = min(paired_ratio(runs[peer], runs["airsmith"]) for peer in peers)
    net_seconds = {name: _seconds_without_startup(runs[name], starts[name]) for name in runs}
    return [
        Goal("tokens per second relative to the faster peer", min_ratio, least=1.0),
        Goal(
            "tokens per second relative to the faster peer, without startup",
            min(net_seconds[peer] for peer in peers) / net_seconds["airsmith"],
            least=1.0,
        ),
        *(Goal(f"fill of rows of {length} tokens", fill, least=0.999) for length, fill in sorted(fills.items())),
        Goal("tokens neither in a row nor reported as dropped", facts["airsmith"]["unreported_tokens"], most=0),
    ]


def _seconds_without_startup(measured: Sequence[Measured], starts: Sequence[Measured]) -> float:
    """Median seconds of an arm without its startup."""
    return statistics.median(one.seconds for one in measured) - statistics.median(one.seconds for one in starts)


if __name__ == "__main__":
    sys.exit(main())
