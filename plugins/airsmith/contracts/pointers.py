"""The records of a stage in its run's folder: a pointer to its output, its status and its progress."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

StageState = Literal["running", "done", "cached", "failed", "interrupted"]


class StagePointer(BaseModel):
    """`stages/<stage>.json`: the location of a stage's output. Written last, so it exists only after success."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    type: str
    digest: str
    location: str
    """Path in the store: an artifact's folder, a model version's folder or an endpoint's file."""
    properties: dict[str, str] = {}
    """Declared properties of the output, so that computing a downstream digest needs no further read."""
    metrics: dict[str, float | int | str | bool | None] = {}
    cached: bool
    started_at: datetime
    seconds: float

    @property
    def revision(self) -> str:
        """Id of the revision that `deploy` points to; differs from the digest if requests were routed to it later."""
        return self.properties.get("revision", self.digest)


class StageStatus(BaseModel):
    """`status/<stage>.json`: the state of a stage, for display only. No stage depends on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    state: StageState
    started_at: datetime
    seconds: float = 0.0
    error: str = ""
    hint: str = ""


class Progress(BaseModel):
    """`progress.json`: the progress of the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    step: int
    total_steps: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    eta_seconds: float | None = None
    updated_at: datetime
