"""For the tests against optimum-neuron's own code: its classes run here on stubs of what they stand on.

`make test-neuron` makes their environment, `.venvs/neuron`, and runs them.

The lock holds optimum-neuron 0.4.5 and optimum 2.0.0 (installed without what they ask for: Neuron's wheels are in no
public index), transformers 4.57, peft 0.17.0, trl 0.24.0, accelerate 1.8.1, huggingface_hub below 1, and what Airsmith
itself needs. torch is the CPU build that the other tests use, not the 2.8 that optimum-neuron pins.

A process of its own gets the stubs by `PYTHONPATH=tests/neuron/stubs`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "stubs"), str(HERE), str(HERE.parents[1] / "containers"), str(HERE.parents[1] / "plugins")]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
