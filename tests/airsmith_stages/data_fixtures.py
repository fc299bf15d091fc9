"""Runs of the data stages on a store in a folder, with models and datasets that a test writes down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stage_zygote import Ended, Zygote

from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import STAGES, TOKENIZER
from airsmith.errors import ErrorKind
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

Files = Mapping[str, bytes]

MODEL_ID, DATASET_ID = "tests/model", "tests/data"


@dataclass
class Bench:
    """A store, a folder for a Hub, and runs.

    :param folder: everything lies in it.
    """

    folder: Path
    zygote: Zygote
    runs: int = 0

    def __post_init__(self) -> None:
        self.store = Store.open(f"file://{self.folder}/store")

    @property
    def hub_root(self) -> Path:
        """What the local Hub serves."""
        return self.folder / "hub"

    def publish(self, kind: Any, repo_id: str, files: Files, **access: Any) -> str:
        """Publish files on the Hub; returns the commit."""
        from demo.hub.repository import publish

        return publish(self.hub_root, kind, repo_id, write_files(self.folder / f"published-{kind}", files), **access)

    def new_run(
        self,
        *,
        model: Mapping[str, Any] | None = None,
        dataset: Mapping[str, Any] | None = None,
        store: Store | None = None,
    ) -> Run:
        """A run that `resolve` has written."""
        validation = {} if "validation_fraction" in (dataset or {}) else {"validation_split": "validation"}
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": MODEL_ID, "revision": "0" * 40, **(model or {})},
                "dataset": {"id": DATASET_ID, "revision": "0" * 40, **validation, **(dataset or {})},
                "method": {"name": "lora"},
            }
        )
        self.runs += 1
        plan = make_plan(recipe)
        run = Run(store or self.store, f"runs/tests/run-{self.runs}")
        run.write_spec(
            RunSpec(
                dag_id="tests",
                run_id=f"run-{self.runs}",
                recipe=recipe,
                recipe_file="tiny.yaml",
                recipe_digest="0" * 64,
                plan=plan,
                airsmith_version="0",
                toolchains={plan.stage("tokenize").image: {n: version(n) for n in STAGES["tokenize"].toolchain}},
                created_at=datetime.now(timezone.utc),
            )
        )
        return run

    def give(self, run: Run, stage: str, files: Files) -> None:
        """Let an upstream stage have made these files."""
        number = f"{stage}-{self.runs}"
        kind = STAGES[stage].output
        with write_artifact(
            run.store, f"artifacts/{kind}/{number}", type=kind, digest=number, inputs={}, versions={}
        ) as writer:
            for name, content in files.items():
                writer.add_bytes(name, content)
            artifact = writer.publish(properties={TOKENIZER: f"tokenizer-{number}"} if stage == "mirror_model" else {})
        run.write_pointer(
            StagePointer(
                stage=stage,
                type=kind,
                digest=artifact.digest,
                location=artifact.folder,
                properties=dict(artifact.manifest.properties),
                cached=False,
                started_at=datetime.now(timezone.utc),
                seconds=0.0,
            )
        )

    def command(self, stage: str, run: Run, **conditions: Any) -> Ended:
        """Run `airsmith-stage` in a process of its own."""
        return self.zygote([stage, "--run", run.uri], self.folder, **conditions)


def write_files(folder: Path, files: Files) -> Path:
    """Write exactly these files into a folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    """All files under a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def output_of(run: Run, stage: str) -> Artifact:
    """What a stage of a run has made."""
    pointer = run.pointer(stage)
    assert pointer is not None
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    return artifact


def contents(artifact: Artifact) -> dict[str, bytes]:
    """All files of an artifact, verified."""
    return {name: artifact.read(name) for name in artifact.names()}


def assert_nothing_half_done(store: Store) -> None:
    """Every manifest has all of its content, and every pointer points to an artifact."""
    for info in list(store.list("artifacts")):
        if info.path.endswith("/manifest.json"):
            artifact = open_artifact(store, info.path.removesuffix("/manifest.json"))
            assert artifact is not None
            contents(artifact)
    for info in list(store.list("runs")):
        if "/stages/" in info.path:
            pointer = StagePointer.model_validate_json(store.read(info.path))
            assert open_artifact(store, pointer.location) is not None


def assert_refused(ended: Ended, run: Run, stage: str, kind: ErrorKind, *words: str) -> None:
    """The stage has failed with this kind, its last line and its status say why, and it left nothing behind."""
    error = ended.error
    assert error.kind is kind, ended.stderr
    for word in words:
        assert word in str(error), error
    assert error.hint
    assert "Traceback" not in ended.stderr
    status = run.statuses()[stage]
    assert (status.state, status.error, status.hint) == ("failed", error.message, error.hint)
    assert run.pointer(stage) is None
    made = f"artifacts/{STAGES[stage].output}"
    assert not list(run.store.list(made))


def jsonl(rows: Iterable[Any]) -> bytes:
    """Rows as a JSON Lines file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def chat(*contents: str) -> list[dict[str, str]]:
    """A conversation in which user and assistant take turns."""
    return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(contents)]


def chats(exchanges: Iterable[Sequence[str]]) -> bytes:
    """Conversations as a JSON Lines file in chat format."""
    return jsonl({"messages": chat(*exchange)} for exchange in exchanges)
