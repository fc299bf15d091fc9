"""All cases on this machine's GPU, in at most 10 minutes: `python -m benchmarks.gpu [--tiny] [RESULT.json]`.

Not yet run on a GPU. Without a GPU only `--tiny` works, which checks that the benchmark runs and measures nothing.

The speed is tokens per second without padding, from the median of the timed steps. The share of the peak is relative to
a measured bfloat16 matmul of 8192 by 8192; FLOPs are counted as in `training/flops.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.claims import RESULTS, machine
from benchmarks.gpu.cases import CASES, COMPARED, PARITY_STEPS, PEERS, STEPS, TINY, WARM_UPS, Case

ROUNDS = 2
LOSS_TOLERANCE = 1e-2


def main() -> int:
    """Measure, print the table, and write the results."""
    options = _options()
    cases = TINY if options.tiny else CASES
    start = time.monotonic()
    matmul_tflops = None if options.tiny else _in_process("benchmarks.gpu.matmul")
    found: dict[str, Any] = {
        "machine": machine(),
        "gpu": _clocks(),
        "matmul_tflops": matmul_tflops,
        "cases": {case.name: _measure(case, matmul_tflops, tiny=options.tiny) for case in cases},
        "clocks_after": _clocks(),
    }
    found["seconds"] = round(time.monotonic() - start, 1)
    _show(found)
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--tiny", action="store_true", help="check that the benchmark runs, on any machine; measures nothing"
    )
    parser.add_argument("result", nargs="?", type=Path, default=RESULTS / "gpu.json")
    return parser.parse_args()


def _measure(case: Case, matmul_tflops: float | None, *, tiny: bool) -> dict[str, Any]:
    """Run the arms of a case alternately."""
    arms = ("airsmith", *(PEERS if case.name in COMPARED else ()))
    steps = 3 if tiny else max(WARM_UPS + STEPS, PARITY_STEPS)
    rounds = ROUNDS if case.name in COMPARED and not tiny else 1
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            runs[arm].append(_in_process("benchmarks.gpu.arm", arm, case.name, str(steps)))
    return {arm: _summary(each, 1 if tiny else WARM_UPS, matmul_tflops) for arm, each in runs.items()}


def _in_process(module: str, *arguments: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(folder) / "facts.json"
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments, str(facts)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode != 0:
            return {"failed": done.stdout[-2000:].decode(errors="replace")}
        return json.loads(facts.read_text())


def _share(run: dict[str, Any], seconds: list[float], matmul_tflops: float | None) -> float | None:
    """The share of the matmul's speed; None if the arm did not count its FLOPs."""
    if matmul_tflops is None or "flops_per_token" not in run:
        return None
    tflops = run["flops_per_token"] * run["tokens_per_step"] / statistics.median(seconds) / 1e12
    return round(tflops / matmul_tflops, 3)


def _summary(runs: list[dict[str, Any]], warm_ups: int, matmul_tflops: float | None) -> dict[str, Any]:
    failed = next((run["failed"] for run in runs if "failed" in run), None)
    if failed is not None:
        return {"failed": failed}
    seconds = [each for run in runs for each in run["seconds"][warm_ups:]]
    return {
        "tokens_per_second": runs[0]["tokens_per_step"] / statistics.median(seconds),
        "share_of_matmul": _share(runs[0], seconds, matmul_tflops),
        "step_seconds": [round(each, 5) for each in seconds],
        "losses": runs[0]["losses"],
        "peak_memory_gib": round(max(run["peak_memory_bytes"] for run in runs) / 2**30, 1),
    }


def _clocks() -> str:
    query = ["nvidia-smi", "--query-gpu=name,clocks.sm,clocks.mem,power.draw,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _show(found: dict[str, Any]) -> None:
    console = Console()
    table = Table(
        "case", "arm", "tokens/s", "peak GiB", "first and last loss", title=found["gpu"], title_justify="left"
    )
    for name, arms in found["cases"].items():
        for arm, summary in arms.items():
            if "failed" in summary:
                table.add_row(name, arm, "failed", "", summary["failed"].strip().splitlines()[-1])
                continue
            losses = summary["losses"]
            table.add_row(
                name, arm, f"{summary['tokens_per_second']:,.0f}", f"{summary['peak_memory_gib']}",
                f"{losses[0]:.4f} … {losses[-1]:.4f}",
            )  # fmt: skip
    console.print(table)
    for name, arms in found["cases"].items():
        for peer in PEERS:
            if peer in arms and not any("failed" in arms[arm] for arm in ("airsmith", peer)):
                faster = arms["airsmith"]["tokens_per_second"] / arms[peer]["tokens_per_second"]
                pairs = list(zip(arms["airsmith"]["losses"], arms[peer]["losses"], strict=False))[:PARITY_STEPS]
                difference = max(abs(a - b) for a, b in pairs)
                within = "within" if difference <= LOSS_TOLERANCE else "NOT WITHIN"
                console.print(
                    f"{name}: {faster:.2f} × the speed of {peer}; losses {within} {LOSS_TOLERANCE} ({difference:.4f})"
                )


if __name__ == "__main__":
    sys.exit(main())
