"""The device's peak speed, in TFLOP/s of a bfloat16 matmul: `python -m benchmarks.gpu.matmul FACTS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

SIZE, REPETITIONS = 8192, 50


def main() -> None:
    """Measure, and write the best of five."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(6):  # the first is a warm-up and never the best
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPETITIONS):
            torch.mm(a, b)
        end.record()
        torch.cuda.synchronize()
        best = max(best, 2 * SIZE**3 * REPETITIONS / begin.elapsed_time(end) / 1e9)
    Path(sys.argv[1]).write_text(json.dumps(best))


if __name__ == "__main__":
    main()
