"""Where a training is: what a checkpoint holds beside the library's files, and a restart goes on from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

POSITION_FILE = "position.json"


@dataclass
class Position:
    """A point of a training.

    :param step: optimizer steps that are done. The learning rate and the rows of the next one follow from it.
    :param history: rows of the metrics until then.
    :param tokens: tokens trained on, without padding.
    :param seconds: time spent on the steps, by all attempts.
    :param restarts: how many times the optimizer's moments began anew.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    restarts: int = 0

    def to_bytes(self) -> bytes:
        """For a checkpoint."""
        return json.dumps(asdict(self)).encode()


def read_position(checkpoint: Path) -> Position:
    """Where the training of a checkpoint's local copy was."""
    return Position(**json.loads((checkpoint / POSITION_FILE).read_text()))
