"""Artifacts of tiny Llamas and their adapters, and runs whose upstream stages have published them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airsmith.artifacts.layout import artifact_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.contracts.stages import END_TOKENS, TOKENIZER, ArtifactType
from airsmith.errors import AirsmithError
from airsmith.recipe import Recipe
from airsmith_stages.data.chat import EncodedExample, ExampleEncoder
from airsmith_stages.data.examples import Example
from airsmith_stages.data.overflow import Sample
from airsmith_stages.data.token_shards import INDEX_FILE, PROMPTS_FILE, one_sample_per_row, write_split
from airsmith_stages.tokenizer_files import tokenizer_digest
from tests.support.stage_runs import point_to, write_run
from tests.support.tiny_models import questions_and_answers, save_lora_adapter, save_tiny_llama, tokenizer

TOOLCHAINS = {"merge": ("numpy",), "evaluate": ("torch", "transformers", "peft", "accelerate")}


class ModelArtifacts:
    """Publishes models, adapters, tokens and evaluations in its own store, and creates runs on them.

    :ivar folder: holds the store, and a local copy of each model by its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(f"file://{folder}/store")

    def base_model(
        self, name: str = "base", *, seed: int = 7, files: Mapping[str, str] | None = None, **config: Any
    ) -> Artifact:
        """Publish a base model with tokenizer, chat template and generation config.

        :param files: files to add or replace.
        """
        folder = self.folder / name
        save_tiny_llama(folder, seed=seed, **config)
        for file, text in (files or {}).items():
            (folder / file).write_text(text)
        return self.publish(ArtifactType.BASE_MODEL, name, folder)

    def adapter(self, base: Artifact, name: str = "adapter", **lora: Any) -> Artifact:
        """Publish an adapter that changes the base's answers, with the given fields of peft's config."""
        folder = self.folder / name
        save_lora_adapter(self.folder / base.digest, folder, **lora)
        return self.publish_adapter(name, folder, base)

    def publish_adapter(self, name: str, folder: Path, base: Artifact) -> Artifact:
        """Publish a folder as an adapter that was trained on a base."""
        with self._writer(ArtifactType.ADAPTER, name, {"mirror_model": base.digest}) as writer:
            writer.add_folder(folder)
            ends = [tokenizer().eos_token_id, tokenizer().convert_tokens_to_ids("<|im_end|>")]
            return writer.publish(properties={END_TOKENS: json.dumps(ends)})

    def tokens(self, name: str = "tokens", pairs: Sequence[tuple[str, str]] | None = None) -> Artifact:
        """Publish a tokenized validation split of questions and answers, 8 pairs by default."""
        encoder = ExampleEncoder(tokenizer(), tokenizer().chat_template)
        examples = [
            Example(n, messages=({"role": "user", "content": q}, {"role": "assistant", "content": a}))
            for n, (q, a) in enumerate(questions_and_answers(8) if pairs is None else pairs)
        ]
        encoded = list(encoder(examples))
        samples = [Sample(one.tokens, one.loss_mask) for one in encoded]
        lines = [json.dumps(_prompt_line(one, encoder)) + "\n" for one in encoded]
        with self._writer(ArtifactType.TOKENS, name, {"mirror_dataset": "d" * 64}) as writer:
            splits = {"validation": write_split("validation", samples, one_sample_per_row, writer)}
            index = {"max_length": 256, "pad_token_id": tokenizer().pad_token_id, "splits": splits}
            writer.add_bytes(INDEX_FILE, json.dumps(index).encode())
            writer.add_bytes(PROMPTS_FILE, "".join(lines).encode())
            return writer.publish()

    def publish(self, kind: str, name: str, folder: Path) -> Artifact:
        """Publish a folder's files; the artifact's digest is its name."""
        with self._writer(kind, name, {}) as writer:
            writer.add_folder(folder)
            return writer.publish(properties={TOKENIZER: tokenizer_digest(writer.files.values())})

    def evaluation(
        self, name: str = "evaluation", fixed_prompts: Sequence[Mapping[str, Any]] = (), **metrics: float
    ) -> Artifact:
        """Publish an evaluation with these metrics."""
        with self._writer(ArtifactType.EVALUATION, name, {}) as writer:
            writer.add_bytes("fixed_prompts.json", json.dumps(list(fixed_prompts)).encode())
            return writer.publish(metrics=metrics)

    def new_run(self, *, recipe: Mapping[str, Any] | None = None, **upstream: Artifact) -> Run:
        """Create a run whose upstream stages have published these artifacts.

        :param recipe: replaces groups of the recipe.
        """
        resolved = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny-llama", "revision": "a" * 40},
                "dataset": {"id": "tests/chats", "revision": "b" * 40, "validation_fraction": 0.1},
                "method": {"name": "lora"},
                "evaluate": {"max_examples": 6, "max_new_tokens": 8},
                **(recipe or {}),
            }
        )
        run = write_run(self.store, resolved, toolchains=TOOLCHAINS)
        for stage, artifact in upstream.items():
            point_to(run, stage, artifact)
        return run

    def _writer(self, kind: str, name: str, inputs: Mapping[str, str]) -> Any:
        return write_artifact(
            self.store, artifact_folder(kind, name), type=kind, digest=name, inputs=inputs, versions={"airsmith": "0"}
        )


def _prompt_line(encoded: EncodedExample, encoder: ExampleEncoder) -> dict[str, Any]:
    return {
        "prompt_token_ids": encoded.tokens[: encoded.prompt_length].tolist(),
        "messages": list(encoded.example.messages[:-1]),
        "prompt": encoder.render_prompt(encoded.example),
        "answer": encoded.example.messages[-1]["content"],
        "answer_token_ids": encoded.tokens[encoded.prompt_length :].tolist(),
    }


def run_command(stage: str, run: Run) -> str:
    """Run `airsmith-stage` in its own process, which must succeed, and return its output."""
    command = [sys.executable, "-m", "airsmith_stages.cli", stage, "--run", run.uri]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def assert_no_output(error: AirsmithError, run: Run, stage: str, kind: str) -> None:
    """Assert that a failed stage left nothing but a status with its error."""
    assert error.hint
    assert run.pointer(stage) is None
    assert run.statuses()[stage].error == error.message
    assert not list(run.store.list(f"artifacts/{kind}"))
