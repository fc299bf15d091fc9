"""Several processes for one stage: torchrun starts them on each node, and whoever failed first is heard."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airsmith.contracts.errors import AirsmithError, ErrorKind
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith_stages.accelerators.cpu import usable_cores
from airsmith_stages.failures import scratch_folder

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

WORKER = "airsmith_stages.worker"
NODE_RANK = "PET_NODE_RANK"
"""torchrun's own variable for the number of this node; PET_MASTER_ADDR and PET_MASTER_PORT name the first one's."""
SHUTDOWN_SECONDS = 3600
"""How long processes that were told to stop may take to publish what they have; whoever told it may wait less long."""


def is_leading_node() -> bool:
    """Whether this node's process speaks for the stage; the others' only take part."""
    return int(os.environ.get(NODE_RANK, "0")) == 0


def is_launched(stage: str, spec: RunSpec) -> bool:
    """Whether a stage is the work of several processes."""
    return stage == "train" and spec.plan.batch.data_parallel_size > 1


def launch(stage: str, run: Run, spec: RunSpec) -> None:
    """Run a stage's processes on this node to their end.

    :raises AirsmithError: what the first of them that failed has said, or what its death says.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as torchrun

    # torchrun gives each process one thread where nobody says otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // spec.recipe.backend.devices)))
    with tempfile.TemporaryDirectory(prefix="airsmith-torchrun-", dir=scratch_folder()) as logs:
        try:
            torchrun(parse_args(_arguments(stage, run, spec, logs)))  # type: ignore[no-untyped-call]
        except ChildFailedError as failed:
            raise _first_failure(failed) from None
        except SignalException:
            raise _interruption(stage, Path(logs)) from None


def _arguments(stage: str, run: Run, spec: RunSpec, logs: str) -> list[str]:
    """torchrun's command line; what tells one node from another it reads from the environment."""
    backend = spec.recipe.backend
    where = ["--standalone"] if backend.nodes == 1 else ["--nnodes", str(backend.nodes), "--rdzv-backend", "static"]
    return [
        *where,
        "--nproc-per-node", str(backend.devices),
        "--max-restarts", "0",
        "--monitor-interval", "0.5",
        "--shutdown-timeout", str(SHUTDOWN_SECONDS),
        "--log-dir", logs,
        "--module", WORKER, stage, run.uri,
    ]  # fmt: skip


def _first_failure(failed: ChildFailedError) -> AirsmithError:
    """The failure that explains the others: who loses a partner fails as well, and says less."""
    ranked = sorted(failed.failures.items(), key=lambda failure: (_weight(failure[1]), failure[0]))
    rank, failure = ranked[0]
    return _said(failure.error_file_data) or _death(rank, failure)


def _weight(failure: ProcessFailure) -> int:
    said = _said(failure.error_file_data)
    if said is None:
        return 1 if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM else 3
    return {ErrorKind.KILLED: 2, ErrorKind.INTERNAL: 2, ErrorKind.INTERRUPTED: 4}.get(said.kind, 0)


def _said(error_file: Mapping[str, Any]) -> AirsmithError | None:
    try:
        return AirsmithError.from_json_line(error_file["message"]["message"])
    except (KeyError, TypeError):
        return None


def _death(rank: int, failure: ProcessFailure) -> AirsmithError:
    if failure.exitcode == -signal.SIGKILL:
        return AirsmithError(
            ErrorKind.KILLED,
            f"Process {rank} of the training was killed (SIGKILL), by somebody or because memory ran out.",
            "Run it again: it goes on from its newest checkpoint. Where it happens again, give it more memory.",
        )
    return AirsmithError(
        ErrorKind.INTERNAL,
        f"Process {rank} of the training ended with exit code {failure.exitcode} and did not say why.",
        "See the last lines of the log.",
    )


def _interruption(stage: str, logs: Path) -> AirsmithError:
    """What the processes said when they were told to stop."""
    said = (_said(json.loads(path.read_text())) for path in sorted(logs.rglob("error.json")))
    interrupted = [error for error in said if error is not None and error.kind is ErrorKind.INTERRUPTED]
    longest = max(interrupted, key=lambda error: len(error.message), default=None)
    return longest or AirsmithError(
        ErrorKind.INTERRUPTED, f"Stage {stage} was told to stop (SIGTERM).", "Run it again."
    )
