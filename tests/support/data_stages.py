"""Data stages on a store in a folder, with models and datasets that a test writes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.stages import STAGES, TOKENIZER
from airsmith.errors import ErrorKind
from airsmith.recipe import Recipe
from tests.support.dataset_files import Files, write_files
from tests.support.stage_commands import CommandResult, StageForkServer
from tests.support.stage_runs import point_to, write_run

MODEL_ID, DATASET_ID = "tests/model", "tests/data"


class DataStages:
    """Publishes sources on a local Hub, creates runs and runs their stages.

    :ivar folder: holds the store, the Hub's repositories and the logs of commands.
    """

    def __init__(self, folder: Path, fork_server: StageForkServer) -> None:
        self.folder = folder
        self.fork_server = fork_server
        self.store = Store.open(f"file://{folder}/store")

    @property
    def hub_root(self) -> Path:
        """The folder that the local Hub serves."""
        return self.folder / "hub"

    def publish_to_hub(self, kind: Any, repo_id: str, files: Files, **access: Any) -> str:
        """Publish files on the Hub and return the commit."""
        from demo.hub.repository import publish

        return publish(self.hub_root, kind, repo_id, write_files(self.folder / f"published-{kind}", files), **access)

    def new_run(
        self,
        *,
        model: Mapping[str, Any] | None = None,
        dataset: Mapping[str, Any] | None = None,
        store: Store | None = None,
    ) -> Run:
        """Create a run whose recipe has these fields in `model` and `dataset`."""
        validation = {} if "validation_fraction" in (dataset or {}) else {"validation_split": "validation"}
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": MODEL_ID, "revision": "0" * 40, **(model or {})},
                "dataset": {"id": DATASET_ID, "revision": "0" * 40, **validation, **(dataset or {})},
                "method": {"name": "lora"},
            }
        )
        return write_run(store or self.store, recipe, toolchains={"tokenize": STAGES["tokenize"].toolchain})

    def publish_output(self, run: Run, stage: str, files: Files) -> None:
        """Publish files as the output of an upstream stage of a run."""
        digest = f"{stage}-{run.path.rpartition('-')[2]}"
        kind = STAGES[stage].output
        with write_artifact(
            run.store, f"artifacts/{kind}/{digest}", type=kind, digest=digest, inputs={}, versions={}
        ) as writer:
            for name, content in files.items():
                writer.add_bytes(name, content)
            properties = {TOKENIZER: f"tokenizer-{digest}"} if stage == "mirror_model" else {}
            point_to(run, stage, writer.publish(properties=properties))

    def run_command(self, stage: str, run: Run, **conditions: Any) -> CommandResult:
        """Run `airsmith-stage` in its own process; see `StageForkServer.run` for the conditions."""
        return self.fork_server.run([stage, "--run", run.uri], self.folder, **conditions)

    def serve_hub(self, stage: str) -> AbstractContextManager[Any]:
        """Serve the Hub if the stage reads from it."""
        from demo.hub.server import Hub, serve

        return nullcontext(Hub("http://127.0.0.1:9")) if stage == "tokenize" else serve(self.hub_root)


def paths_written(run: Run, stage: str) -> list[str]:
    """List the objects under the path where a stage publishes its output."""
    return [info.path for info in run.store.list(f"artifacts/{STAGES[stage].output}")]


def assert_refused(result: CommandResult, run: Run, stage: str, kind: ErrorKind, *words: str) -> None:
    """Assert that a stage failed with this kind, reported the cause in log and status, and left no output."""
    error = result.error
    assert error.kind is kind, result.stderr
    for word in words:
        assert word in str(error), error
    assert error.hint
    assert "Traceback" not in result.stderr
    status = run.statuses()[stage]
    assert (status.state, status.error, status.hint) == ("failed", error.message, error.hint)
    assert run.pointer(stage) is None
    assert not paths_written(run, stage)
