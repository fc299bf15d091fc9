"""The position of a training, which a checkpoint contains in addition to the library's files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

POSITION_FILE = "position.json"


@dataclass
class Position:
    """A position of a training.

    :param step: number of completed optimizer steps; it determines the learning rate and the rows of the next step.
    :param history: rows of the metrics up to this step.
    :param tokens: number of tokens trained on, without padding.
    :param seconds: duration of the steps, over all attempts.
    :param restarts: number of warm restarts, each of which reset the optimizer's moments.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    restarts: int = 0

    def to_bytes(self) -> bytes:
        """Serialize it for a checkpoint."""
        return json.dumps(asdict(self)).encode()


def read_position(checkpoint: Path) -> Position:
    """Read the position from the local copy of a checkpoint."""
    return Position(**json.loads((checkpoint / POSITION_FILE).read_text()))
