"""LoRA with the stage `train`, compared with `Trainer` and peft, and with TRL, on CPUs: `make bench BENCH=train`.

All arms train on the same rows in the same order with the same weights, seed and optimizer, in float32. The speed is
that of all steps. The stage also publishes a checkpoint and its progress in that time; its peak memory is that of the
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
    """Train with all arms, alternately."""
    folder = scratch_folder() / "train"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # In its own process: the peak memory of an arm is at least the memory of the process that starts it.
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

    def delete_outputs() -> None:
        for made in ("artifacts/adapter", "checkpoints"):
            shutil.rmtree(folder / "store" / made, ignore_errors=True)

    def read_stage_facts() -> None:
        pointer = run.pointer("train")
        artifact = open_artifact(run.store, pointer.location) if pointer else None
        if artifact is None:
            raise RuntimeError("The stage published no artifact.")
        rows = [json.loads(line) for line in artifact.read("metrics.jsonl").decode().splitlines()]
        losses["airsmith"] = [row["loss"] for row in rows if "loss" in row]
        speeds["airsmith"].append(float(artifact.manifest.metrics["tokens_per_second"] or 0))

    def read_peer_facts(name: str) -> None:
        facts = json.loads((folder / f"{name}.json").read_text())
        losses[name] = facts["losses"]
        speeds[name].append(facts["tokens_per_second"])

    stage = [sys.executable, "-m", "airsmith_stages.cli", "train", "--run", run.uri]
    return [
        Arm("airsmith", stage, before=delete_outputs, after=read_stage_facts),
        *(
            Arm(
                name,
                [str(PEER_PYTHON), "-m", "benchmarks.train_peers", name, str(folder)],
                after=partial(read_peer_facts, name),
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
    difference = max(abs(a - b) for a, b in zip(losses["airsmith"], losses["trainer"], strict=True))
    return [
        Goal("tokens per second relative to Trainer with peft", faster["trainer"], least=1.05),
        Goal("peak memory relative to Trainer with peft", peaks["airsmith"] / peaks["trainer"], most=0.85),
        Goal("largest difference of a step's loss from Trainer with peft", difference, most=1e-5),
        Goal("tokens per second relative to TRL", faster["trl"], least=1.0),
    ]


if __name__ == "__main__":
    sys.exit(main())
