"""Tiny Llamas with adapters, and runs whose upstream stages are done: real weights, real files, real artifacts."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from airsmith_stages.frame import run_stage
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from airsmith.artifacts.layout import artifact_folder
from airsmith.artifacts.publish import write_artifact
from airsmith.artifacts.read import Artifact, open_artifact
from airsmith.artifacts.store import Store
from airsmith.contracts.cache import Output
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.contracts.stages import END_TOKENS, TOKENIZER, ArtifactType
from airsmith.errors import AirsmithError
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith_stages.data.chat import ExampleTokeniser
from airsmith_stages.data.examples import Example
from airsmith_stages.data.overflow import Sample
from airsmith_stages.data.token_shards import INDEX_FILE, PROMPTS_FILE, alone, write_split
from airsmith_stages.tokenizer_files import tokenizer_digest
from demo.tiny_llama import train_tokenizer

TOOLCHAIN = ("torch", "transformers", "peft", "accelerate")
QUESTIONS = ["Is the kettle on?", "Where did the cat go", "yes", "The bus to the lake leaves at noon, does it not?"]
ANSWERS = ["No.", "Out.", "no", "It does."]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """ChatML over bytes and a few merges."""
    return train_tokenizer(["user", "assistant", "system", *QUESTIONS, *ANSWERS])


def exchanges(count: int) -> list[tuple[str, str]]:
    """Questions with answers, all of them different."""
    return [(f"{QUESTIONS[n % 4]} {n}", f"{ANSWERS[n % 4]} {n}") for n in range(count)]


@dataclass
class Workshop:
    """A store, and what lies in it.

    :ivar recipe: groups of the recipe that a run may override.
    """

    folder: Path
    recipe: dict[str, Any] = field(default_factory=lambda: {"evaluate": {"max_examples": 6, "max_new_tokens": 8}})
    runs: int = 0

    def __post_init__(self) -> None:
        self.store = Store.open(f"file://{self.folder}/store")

    def base(self, name: str = "base", *, seed: int = 7, files: Mapping[str, str] = {}, **config: Any) -> Artifact:
        """A base model with tokenizer, chat template and generation config.

        :param files: more files, or others in place of those that are there.
        """
        folder = self.folder / name
        save_base(folder, seed=seed, **config)
        for file, text in files.items():
            (folder / file).write_text(text)
        return self.publish(ArtifactType.BASE_MODEL, name, folder)

    def adapter(self, base: Artifact, name: str = "adapter", **lora: Any) -> Artifact:
        """An adapter that changes what the base says, with the given fields of peft's config."""
        folder = self.folder / name
        save_adapter(self.folder / base.digest, folder, **lora)
        return self.publish_adapter(name, folder, base)

    def publish_adapter(self, name: str, folder: Path, base: Artifact) -> Artifact:
        """Publish a folder as what was trained on a base."""
        with self._writer(ArtifactType.ADAPTER, name, {"mirror_model": base.digest}) as writer:
            writer.add_folder(folder)
            ends = [tokenizer().eos_token_id, tokenizer().convert_tokens_to_ids("<|im_end|>")]
            return writer.publish(properties={END_TOKENS: json.dumps(ends)})

    def tokens(self, name: str = "tokens", asked: Sequence[tuple[str, str]] = tuple(exchanges(8))) -> Artifact:
        """A validation split of questions and answers, tokenized."""
        folder = self.folder / name
        folder.mkdir()
        examples = [
            Example(n, messages=({"role": "user", "content": q}, {"role": "assistant", "content": a}))
            for n, (q, a) in enumerate(asked)
        ]
        tokeniser = ExampleTokeniser(tokenizer(), tokenizer().chat_template)
        tokenised = list(tokeniser(examples))
        samples = [Sample(one.tokens, one.loss_mask) for one in tokenised]
        lines = [
            {
                "prompt_token_ids": one.tokens[: one.prompt_length].tolist(),
                "messages": list(one.example.messages[:-1]),
                "prompt": tokeniser.render_prompt(one.example),
                "answer": one.example.messages[-1]["content"],
                "answer_token_ids": one.tokens[one.prompt_length :].tolist(),
            }
            for one in tokenised
        ]
        with self._writer(ArtifactType.TOKENS, name, {"mirror_dataset": "d" * 64}) as writer:
            splits = {"validation": write_split("validation", samples, alone, writer)}
            index = {"max_length": 256, "pad_token_id": tokenizer().pad_token_id, "splits": splits}
            writer.add_bytes(INDEX_FILE, json.dumps(index).encode())
            writer.add_bytes(PROMPTS_FILE, "".join(json.dumps(line) + "\n" for line in lines).encode())
            return writer.publish()

    def publish(self, kind: str, name: str, folder: Path, inputs: Mapping[str, str] = {}) -> Artifact:
        """Publish a folder's files; the artifact's digest is the name."""
        with self._writer(kind, name, inputs) as writer:
            writer.add_folder(folder)
            return writer.publish(properties={TOKENIZER: tokenizer_digest(writer.files.values())})

    def evaluation(
        self, name: str = "evaluation", fixed_prompts: Sequence[Mapping[str, Any]] = (), **metrics: float
    ) -> Artifact:
        """An evaluation with these metrics."""
        with self._writer(ArtifactType.EVALUATION, name, {}) as writer:
            writer.add_bytes("fixed_prompts.json", json.dumps(list(fixed_prompts)).encode())
            return writer.publish(metrics=metrics)

    def run(self, *, recipe: Mapping[str, Any] | None = None, **upstream: Artifact) -> Run:
        """A run in which these stages are done."""
        resolved = Recipe.model_validate(
            {
                "name": "tiny",
                "model": {"id": "tests/tiny-llama", "revision": "a" * 40},
                "dataset": {"id": "tests/chats", "revision": "b" * 40, "validation_fraction": 0.1},
                "method": {"name": "lora"},
                **self.recipe,
                **(recipe or {}),
            }
        )
        self.runs += 1
        plan = make_plan(resolved)
        run = Run(self.store, f"runs/tests/run-{self.runs}")
        run.write_spec(
            RunSpec(
                dag_id="tests",
                run_id=f"run-{self.runs}",
                recipe=resolved,
                recipe_file="tiny.yaml",
                recipe_digest=recipe_digest(resolved),
                plan=plan,
                airsmith_version="0",
                toolchains={
                    plan.stage("merge").image: {"numpy": version("numpy")},
                    plan.stage("evaluate").image: {name: version(name) for name in TOOLCHAIN},
                },
                created_at=datetime.now(timezone.utc),
            )
        )
        for stage, artifact in upstream.items():
            done(run, stage, Output.of_artifact(artifact))
        return run

    def _writer(self, kind: str, name: str, inputs: Mapping[str, str]) -> Any:
        return write_artifact(
            self.store, artifact_folder(kind, name), type=kind, digest=name, inputs=inputs, versions={"airsmith": "0"}
        )


def save_base(folder: Path, *, seed: int = 7, dtype: torch.dtype = torch.float32, **config: Any) -> None:
    """Write a base model. Its weights are large enough for tokens to differ clearly in their logits."""
    shape = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
    }  # fmt: skip
    ends = {"eos_token_id": tokenizer().eos_token_id, "pad_token_id": tokenizer().pad_token_id}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer()), bos_token_id=None, **ends, **{**shape, **config}))
    model.generation_config = GenerationConfig(**ends, do_sample=False)
    model.to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def save_adapter(base: Path, folder: Path, **lora: Any) -> None:
    """Write an adapter with random weights in all that it trains; with `init_lora_weights=True`, an untrained one."""
    config = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **lora}
    torch.manual_seed(11)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config))
    moved = [
        parameter for parameter in model.parameters() if parameter.requires_grad and not config["init_lora_weights"]
    ]
    for parameter in moved:
        # As training holds it, in float32 whatever the base is.
        parameter.data = parameter.data.float() + 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def with_adapter(base: Path, adapter: Path) -> Any:
    """What merging has to equal: peft's own model of base and adapter."""
    return PeftModel.from_pretrained(load(base), adapter).eval()


@torch.inference_mode()
def logits(model: Any, text: str = "Where did the kettle go at noon, and is the cat on the bus?") -> torch.Tensor:
    return model(**tokenizer()(text, return_tensors="pt")).logits.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative L2 difference."""
    return float((one - other).norm() / one.norm())


def done(run: Run, stage: str, output: Output) -> None:
    """Let a stage have made this."""
    StageRecord.begin(stage, run).finish(output, cached=False)


def output_of(run: Run, stage: str) -> Artifact:
    """What a stage of a run has made."""
    pointer = run.pointer(stage)
    assert pointer is not None
    artifact = open_artifact(run.store, pointer.location)
    assert artifact is not None
    return artifact


def command(stage: str, run: Run) -> str:
    """Run `airsmith-stage` in a process of its own to its good end; returns what it said."""
    line = [sys.executable, "-m", "airsmith_stages.cli", stage, "--run", run.uri]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


class PowerCut(BaseException):
    """The process is gone: whatever it still tries reaches no store."""


@contextlib.contextmanager
def power_cut_at(call: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """End the block at this call of the store, counted from 1; yields the names of the calls so far."""
    calls: list[str] = []

    def cutting(name: str, original: Any) -> Any:
        def method(self: Store, *arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) >= call:
                raise PowerCut
            return original(self, *arguments, **named)

        return method

    with monkeypatch.context() as patch, contextlib.suppress(PowerCut):
        for name in ("find", "read_range", "stream", "write", "swap", "upload", "list", "delete"):
            patch.setattr(Store, name, cutting(name, getattr(Store, name)))
        yield calls


def moments(stage: str, start: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs of a stage, each cut off one call of the store later than the one before, the last one at its end."""
    for call in itertools.count(1):
        run, ended = start(), False
        with power_cut_at(call, monkeypatch):
            run_stage(stage, run)
            ended = True
        yield run
        if ended:
            return


def assert_whole(store: Store) -> None:
    """Every manifest has all of its content, and every pointer points to something that is there."""
    for info in list(store.list("")):
        if info.path.startswith("artifacts/") and info.path.endswith("/manifest.json"):
            artifact = open_artifact(store, info.path.removesuffix("/manifest.json"))
            assert artifact is not None
            for name in artifact.names():
                artifact.read(name)
        elif "/stages/" in info.path:
            location = StagePointer.model_validate_json(store.read(info.path)).location
            assert list(store.list(location))


def remove(store: Store, folder: str) -> None:
    for info in list(store.list(folder)):
        store.delete(info.path)


def assert_refused(error: AirsmithError, run: Run, stage: str, kind: str) -> None:
    """The stage has left nothing but a status that says why."""
    assert error.hint
    assert run.pointer(stage) is None
    assert run.statuses()[stage].error == error.message
    assert not list(run.store.list(f"artifacts/{kind}"))
