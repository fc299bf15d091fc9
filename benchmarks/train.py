"""LoRA by the stage `train` beside plain `Trainer` with peft, and TRL's trainer, on CPUs: `make bench BENCH=train`.

All take the same rows in the same order with the same weights, seed and optimizer, in float32. Counted are the tokens
of all steps; the stage also publishes a checkpoint and its progress in that time, and its peak of memory is that of the
whole stage.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from benchmarks.arms import Arm, Measured, measure, scratch_folder
from benchmarks.claims import Goal, report
from benchmarks.train_facts import BATCH, LENGTH, STEPS

PEER_PYTHON = Path(".venvs/benchmarks/bin/python")
PEERS = ("trainer", "trl")
ROUNDS = int(os.environ.get("BENCHMARK_ROUNDS", "5"))


def main() -> int:
    """Train by all arms in turn."""
    folder = scratch_folder() / "train"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # In a process of its own: an arm's peak is never less than what the process that starts it has in memory.
    subprocess.run([sys.executable, "-m", "benchmarks.train_inputs", str(folder)], check=True)
    speeds: dict[str, list[float]] = {name: [] for name in ("airsmith", *PEERS)}
    losses: dict[str, list[float]] = {}
    runs = measure(_arms(folder, speeds, losses), repetitions=ROUNDS, warm_ups=1)
    shutil.rmtree(folder)
    speeds = {name: each[-ROUNDS:] for name, each in speeds.items()}
    report(
        "train",
        f"LoRA r=16 on a Llama of 35 million parameters, {STEPS} steps of {BATCH} rows of {LENGTH} tokens, float32",
        runs,
        _goals(runs, speeds, losses),
        tokens_per_second=speeds,
        losses=losses,
    )
    return 0


def _arms(folder: Path, speeds: dict[str, list[float]], losses: dict[str, list[float]]) -> list[Arm]:
    run = Run(Store.open(f"file://{folder}/store"), "runs/benchmark/train")

    def forget() -> None:
        for made in ("artifacts/adapter", "checkpoints"):
            shutil.rmtree(folder / "store" / made, ignore_errors=True)

    def stage_made() -> None:
        pointer = run.pointer("train")
        artifact = open_artifact(run.store, pointer.location) if pointer else None
        if artifact is None:
            raise RuntimeError("The stage has published nothing")
        rows = [json.loads(line) for line in artifact.read("metrics.jsonl").decode().splitlines()]
        losses["airsmith"] = [row["loss"] for row in rows if "loss" in row]
        speeds["airsmith"].append(float(artifact.manifest.metrics["tokens_per_second"] or 0))

    def peer_made(name: str) -> None:
        facts = json.loads((folder / f"{name}.json").read_text())
        losses[name] = facts["losses"]
        speeds[name].append(facts["tokens_per_second"])

    stage = [sys.executable, "-m", "airsmith_stages.cli", "train", "--run", run.uri]
    return [
        Arm("airsmith", stage, before=forget, after=stage_made),
        *(
            Arm(
                name,
                [str(PEER_PYTHON), "-m", "benchmarks.train_peers", name, str(folder)],
                after=partial(peer_made, name),
                environment={"HF_HUB_OFFLINE": "1"},
            )
            for name in PEERS
        ),
    ]


def _goals(
    runs: dict[str, list[Measured]], speeds: dict[str, list[float]], losses: dict[str, list[float]]
) -> list[Goal]:
    faster = {
        peer: statistics.median(ours / theirs for ours, theirs in zip(speeds["airsmith"], speeds[peer], strict=True))
        for peer in PEERS
    }
    peaks = {name: statistics.median(one.peak_rss_bytes for one in measured) for name, measured in runs.items()}
    apart = max(abs(a - b) for a, b in zip(losses["airsmith"], losses["trainer"], strict=True))
    return [
        Goal("tokens per second, as a multiple of Trainer's with peft:", faster["trainer"], least=1.05),
        Goal("peak memory, as a share of Trainer's with peft:", peaks["airsmith"] / peaks["trainer"], most=0.85),
        Goal("largest difference of a step's loss from Trainer's with peft:", apart, most=1e-5),
        Goal("tokens per second, as a multiple of TRL's:", faster["trl"], least=1.0),
    ]


if __name__ == "__main__":
    sys.exit(main())
