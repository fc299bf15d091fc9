"""The tokenize stage: its output, its errors, and its determinism."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from airsmith.artifacts.read import Artifact
from airsmith.contracts.run import Run
from airsmith.contracts.stages import END_TOKENS
from airsmith.errors import ErrorKind
from airsmith_stages import tokenize as stage
from airsmith_stages.data import examples, token_shards
from airsmith_stages.data.token_shards import read_rows
from airsmith_stages.stage_runner import run_stage
from demo.hub.server import serve
from tests.support import chat_tokenizers
from tests.support.chat_tokenizers import CHATML, CHATML_UNMARKED
from tests.support.data_stages import DATASET_ID, MODEL_ID, DataStages, assert_refused
from tests.support.dataset_files import chat, chats, jsonl, read_files
from tests.support.stage_runs import contents, output_of

EXCHANGES = [(f"The kettle {number} is cold. 🦊", f'{{"team": "{number % 3}"}}') for number in range(12)]
DATASET = {"train.jsonl": chats(EXCHANGES), "validation.jsonl": chats([("Where is my bill?", "billing")])}

Tokenize = Callable[..., tuple[Run, Any]]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return chat_tokenizers.chatml_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a base model that tokenization needs."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return {"config.json": b'{"model_type": "llama"}', **read_files(folder)}


@pytest.fixture
def tokenize(data_stages: DataStages, model: dict[str, bytes]) -> Tokenize:
    """Runs the stage on files, with fields of the recipe's `dataset`."""

    def run_command(
        files: dict[str, bytes] = DATASET, base: dict[str, bytes] | None = None, **dataset: Any
    ) -> tuple[Run, Any]:
        run = data_stages.new_run(dataset={"max_length": 64, **dataset})
        data_stages.publish_output(run, "mirror_model", model if base is None else base)
        data_stages.publish_output(run, "mirror_dataset", files)
        return run, data_stages.run_command("tokenize", run)

    return run_command


def tokenized(run_and_end: tuple[Run, Any]) -> Artifact:
    run, result = run_and_end
    assert result.returncode == 0, result.stderr
    return output_of(run, "tokenize")


def index_of(artifact: Artifact) -> Any:
    return json.loads(artifact.read("index.json"))


def texts(tokenizer: Any, artifact: Artifact, folder: Path, split: str = "train") -> list[str]:
    """Decode the rows."""
    rows = read_rows(artifact.download(folder / "tokens"), split)
    return [
        tokenizer.decode(rows.tokens[start:end]) for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    ]


def rendered(exchange: tuple[str, str]) -> str:
    return f"<|im_start|>user\n{exchange[0]}<|im_end|>\n<|im_start|>assistant\n{exchange[1]}<|im_end|>\n"


def test_the_commands_tokenize_a_dataset_of_the_hub(
    data_stages: DataStages, tiny_llama: Callable[[], Path], tokenizer: Any, tmp_path: Path
) -> None:
    model = data_stages.publish_to_hub("model", MODEL_ID, read_files(tiny_llama()))
    dataset = data_stages.publish_to_hub("dataset", DATASET_ID, DATASET)
    run = data_stages.new_run(model={"revision": model}, dataset={"revision": dataset, "max_length": 512})
    with serve(data_stages.hub_root) as hub:
        for stage in ("mirror_model", "mirror_dataset", "tokenize"):
            command = [sys.executable, "-m", "airsmith_stages.cli", stage, "--run", run.uri]
            result = subprocess.run(command, capture_output=True, text=True, env={"HF_ENDPOINT": hub.url}, check=False)
            assert result.returncode == 0, result.stderr
            assert run.statuses()[stage].state == "done"
    artifact = output_of(run, "tokenize")
    shards = {"train-00000.safetensors", "validation-00000.safetensors"}
    assert set(artifact.names()) == {"index.json", "sample.txt", "validation_prompts.jsonl", *shards}
    assert artifact.manifest.inputs.keys() == {"mirror_model", "mirror_dataset"}
    assert artifact.manifest.versions.keys() == {"airsmith", "transformers", "tokenizers", "datasets"}
    assert artifact.manifest.metrics["train_rows"] == len(EXCHANGES)


class TestOutput:
    def test_rows_are_the_rendered_conversations(self, tokenize: Tokenize, tokenizer: Any, tmp_path: Path) -> None:
        artifact = tokenized(tokenize())
        assert texts(tokenizer, artifact, tmp_path) == [rendered(exchange) for exchange in EXCHANGES]
        assert texts(tokenizer, artifact, tmp_path, "validation") == [rendered(("Where is my bill?", "billing"))]

    def test_the_index_describes_the_shards(self, tokenize: Tokenize, tokenizer: Any) -> None:
        artifact = tokenized(tokenize())
        index = index_of(artifact)
        shard = load(artifact.read(index["splits"]["train"]["shards"][0]["name"]))
        assert {name: str(tensor.dtype) for name, tensor in shard.items()} == {
            "tokens": "uint32", "offsets": "int64", "loss_mask": "uint8",
        }  # fmt: skip
        train = index["splits"]["train"]
        assert (train["rows"], train["examples"]) == (len(shard["offsets"]) - 1, len(EXCHANGES))
        assert (train["tokens"], train["loss_tokens"]) == (len(shard["tokens"]), int(shard["loss_mask"].sum()))
        assert 0 < train["loss_tokens"] < train["tokens"]
        assert index["end_of_turn_token_ids"] == [tokenizer.eos_token_id]
        assert (index["pad_token_id"], index["vocab_size"]) == (tokenizer.pad_token_id, len(tokenizer))
        assert (index["format"], index["max_length"], index["packing"]) == (1, 64, "none")
        assert index["report"]["fill"] == round(train["tokens"] / (train["rows"] * 64), 4)
        assert artifact.manifest.metrics["train_loss_tokens"] == train["loss_tokens"]

    def test_the_end_tokens_of_the_training_are_a_property(
        self, tokenize: Tokenize, model: dict[str, bytes], tokenizer: Any
    ) -> None:
        assert json.loads(tokenized(tokenize()).manifest.properties[END_TOKENS]) == [tokenizer.eos_token_id]
        stops = {"generation_config.json": json.dumps({"eos_token_id": tokenizer.pad_token_id}).encode()}
        template = CHATML.replace("<|im_end|>", tokenizer.pad_token)
        other = tokenized(tokenize(base={**model, **stops}, chat_template=template))
        expected = [tokenizer.eos_token_id, tokenizer.pad_token_id]
        assert json.loads(other.manifest.properties[END_TOKENS]) == expected

    def test_the_sample_marks_the_tokens_with_loss(self, tokenize: Tokenize) -> None:
        files = {**DATASET, "train.jsonl": chats([("🦊?", "🦊!", "And\\n?", "x")])}
        assert tokenized(tokenize(files)).read("sample.txt").decode() == (
            "<|im_start|>user\n🦊?<|im_end|>\n<|im_start|>assistant\n⟦🦊!<|im_end|>⟧\n"
            "<|im_start|>user\nAnd\\n?<|im_end|>\n<|im_start|>assistant\n⟦x<|im_end|>⟧\n\n"
        )

    def test_validation_prompts_end_at_the_start_of_the_answer(self, tokenize: Tokenize, tokenizer: Any) -> None:
        files = {**DATASET, "validation.jsonl": chats([("a", "b", "c", "d"), ("long " * 50, "x")])}
        (line,) = tokenized(tokenize(files)).read("validation_prompts.jsonl").decode().splitlines()
        prompt = json.loads(line)
        assert prompt["messages"] == chat("a", "b", "c")
        assert prompt["answer"] == "d"
        assert tokenizer.decode(prompt["prompt_token_ids"]) == prompt["prompt"]
        assert prompt["prompt"].endswith("<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")
        assert tokenizer.decode(prompt["answer_token_ids"]) == "d<|im_end|>"

    def test_the_same_input_gives_the_same_bytes(self, tokenize: Tokenize) -> None:
        first, second = (tokenized(tokenize(packing="isolated", validation_fraction=0.3)) for _ in range(2))
        assert first.folder != second.folder
        assert contents(first) == contents(second)

    def test_any_number_of_processes_gives_the_same_bytes(
        self, data_stages: DataStages, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stage, "MIN_PARALLEL_ROWS", 0)
        monkeypatch.setattr(token_shards, "WINDOW_TOKENS", 200)
        outputs = []
        for processes, batch_rows in ((1, 256), (2, 2), (3, 1)):
            monkeypatch.setattr(stage, "process_count", lambda count=processes: count)
            monkeypatch.setattr(examples, "BATCH_ROWS", batch_rows)
            run = data_stages.new_run(dataset={"max_length": 64, "packing": "isolated", "validation_fraction": 0.3})
            data_stages.publish_output(run, "mirror_model", model)
            data_stages.publish_output(run, "mirror_dataset", DATASET)
            run_stage("tokenize", run)
            outputs.append(contents(output_of(run, "tokenize")))
        assert outputs[0] == outputs[1] == outputs[2]
        assert {"train-00001.safetensors", "validation-00000.safetensors"} <= outputs[0].keys()

    def test_masks_are_the_same_with_and_without_generation_markers(self, tokenize: Tokenize) -> None:
        marked, unmarked = (tokenized(tokenize(chat_template=template)) for template in (CHATML, CHATML_UNMARKED))
        assert marked.read("train-00000.safetensors") == unmarked.read("train-00000.safetensors")

    def test_the_recipe_s_template_replaces_the_tokenizer_s(
        self, tokenize: Tokenize, tokenizer: Any, tmp_path: Path
    ) -> None:
        artifact = tokenized(tokenize(chat_template=CHATML.replace("<|im_start|>", "<|im_start|>the ")))
        assert texts(tokenizer, artifact, tmp_path)[0].startswith("<|im_start|>the user\n")

    def test_prompts_and_completions_need_no_template(
        self, tokenize: Tokenize, model: dict[str, bytes], tokenizer: Any, tmp_path: Path
    ) -> None:
        rows = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1)} for n in range(3)]
        files = {"train.jsonl": jsonl(rows[:2]), "validation.jsonl": jsonl(rows[2:])}
        artifact = tokenized(tokenize(files, without_template(model), format="prompt-completion"))
        assert texts(tokenizer, artifact, tmp_path) == ["0 + 1 = 1<|im_end|>", "1 + 1 = 2<|im_end|>"]
        prompt = json.loads(artifact.read("validation_prompts.jsonl"))
        assert (prompt["messages"], prompt["prompt"], prompt["answer"]) == (None, "2 + 1 = ", "3")

    def test_instructions_with_mapped_columns(self, tokenize: Tokenize, tokenizer: Any, tmp_path: Path) -> None:
        rows = [{"question": q, "context": "", "response": a} for q, a in EXCHANGES]
        files = {"train.jsonl": jsonl(rows)}
        columns = {"instruction": "question", "input": "context", "output": "response"}
        artifact = tokenized(tokenize(files, format="instruction", columns=columns, validation_fraction=0.25))
        found = texts(tokenizer, artifact, tmp_path) + texts(tokenizer, artifact, tmp_path, "validation")
        assert sorted(found) == sorted(rendered(exchange) for exchange in EXCHANGES)
        assert index_of(artifact)["splits"]["validation"]["rows"] == 3


class TestPacking:
    @pytest.mark.parametrize("packing", ["isolated", "across_samples"])
    def test_every_example_is_kept_with_its_offsets(
        self, tokenize: Tokenize, tokenizer: Any, tmp_path: Path, packing: str
    ) -> None:
        artifact = tokenized(tokenize(packing=packing, max_length=128))
        rows = read_rows(artifact.download(tmp_path / "tokens"), "train")
        samples = [
            tokenizer.decode(rows.tokens[start:end])
            for start, end in zip(rows.sample_offsets[:-1], rows.sample_offsets[1:], strict=True)
        ]
        assert sorted(samples) == sorted(rendered(exchange) for exchange in EXCHANGES)
        assert len(rows) < len(EXCHANGES)
        assert np.diff(rows.offsets).max() <= 128
        assert set(rows.offsets) <= set(rows.sample_offsets)
        index = index_of(artifact)
        assert index["packing"] == packing
        assert index["splits"]["train"]["examples"] == len(EXCHANGES)

    def test_validation_rows_are_not_packed(self, tokenize: Tokenize) -> None:
        index = index_of(tokenized(tokenize(packing="isolated", validation_fraction=0.5, max_length=512)))
        assert index["splits"]["train"]["rows"] == 1
        assert index["splits"]["validation"]["rows"] == 6


TOO_LONG = {**DATASET, "train.jsonl": chats([("a", "b"), ("a", "long " * 60)])}


class TestOverflow:
    @pytest.mark.parametrize(("overflow", "rows"), [("drop", 1), ("truncate", 2)])
    def test_dropped_tokens_are_logged_and_reported(self, tokenize: Tokenize, overflow: str, rows: int) -> None:
        run, result = tokenize(TOO_LONG, overflow=overflow)
        index = index_of(tokenized((run, result)))
        report = index["report"]["train"]
        assert index["splits"]["train"]["rows"] == rows
        assert (report["policy"], report["read"], report["too_long"]) == (overflow, 2, 1)
        assert report["dropped_tokens"] == report["read_tokens"] - index["splits"]["train"]["tokens"] > 0
        warning = f"1 of 2 examples of 'train' are longer than dataset.max_length 64 (overflow: {overflow})"
        assert f"WARNING: {warning}: {report['dropped_tokens']} tokens dropped" in result.stderr

    def test_the_policy_split_drops_no_token(self, tokenize: Tokenize, tokenizer: Any, tmp_path: Path) -> None:
        artifact = tokenized(tokenize(TOO_LONG, overflow="split"))
        assert index_of(artifact)["report"]["train"]["dropped_tokens"] == 0
        assert "".join(texts(tokenizer, artifact, tmp_path)) == rendered(("a", "b")) + rendered(("a", "long " * 60))

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_a_split_in_which_no_example_fits_is_refused(self, tokenize: Tokenize, split: str) -> None:
        run, result = tokenize({**DATASET, f"{split}.jsonl": chats([("a", "long " * 60)])})
        assert_refused(result, run, "tokenize", ErrorKind.BAD_DATA, repr(split), "max_length 64", "overflow")


LEAKING = {**DATASET, "validation.jsonl": chats([EXCHANGES[0], ("THE kettle 1, is cold", EXCHANGES[1][1]), ("x", "y")])}


class TestLeakage:
    def test_leakage_above_the_limit_is_refused_with_its_numbers(self, tokenize: Tokenize) -> None:
        run, result = tokenize(LEAKING)
        assert_refused(result, run, "tokenize", ErrorKind.BAD_DATA, "2 of 3", "(1 exactly)", "0.667")

    def test_leakage_up_to_the_limit_is_reported(self, tokenize: Tokenize) -> None:
        artifact = tokenized(tokenize(LEAKING, max_leakage_fraction=0.667))
        assert index_of(artifact)["report"]["leakage"] == {"validation": 3, "exact": 1, "normalized": 2}
        assert artifact.manifest.metrics["leaked_examples"] == 2


def without_template(model: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in model.items() if name != "chat_template.jinja"}


class TestRefused:
    def test_conversations_without_any_chat_template(self, tokenize: Tokenize, model: dict[str, bytes]) -> None:
        run, result = tokenize(base=without_template(model))
        assert_refused(result, run, "tokenize", ErrorKind.BAD_DATA, "no chat template", "dataset.chat_template")

    @pytest.mark.parametrize("lost", ["tokenizer.json", "tokenizer_config.json tokenizer.json"])
    def test_a_model_without_a_tokenizer(self, tokenize: Tokenize, model: dict[str, bytes], lost: str) -> None:
        run, result = tokenize(base={name: file for name, file in model.items() if name not in lost.split()})
        assert_refused(result, run, "tokenize", ErrorKind.BAD_DATA, MODEL_ID, "tokenizer")

    @pytest.mark.parametrize(
        ("train", "words"),
        [
            pytest.param(chats([("a",)]), "row 0 of 'train' assistant", id="no assistant turn"),
            pytest.param(chats([("a", "b")]) + b'{"messages": "\xff"}', "train.jsonl line 2 UTF-8", id="broken UTF-8"),
            pytest.param(chats([("a", "b")]) + b'{"messages": [', "train.jsonl line 2 JSON", id="broken JSON"),
            pytest.param(b"", "train.jsonl empty", id="empty split"),
            pytest.param(jsonl([{"text": "a"}]), "'messages' text dataset.columns", id="unknown column"),
        ],
    )
    def test_bad_data_is_refused_with_its_location(self, tokenize: Tokenize, train: bytes, words: str) -> None:
        validation = train if b'"text"' in train else DATASET["validation.jsonl"]
        run, result = tokenize({"train.jsonl": train, "validation.jsonl": validation})
        assert_refused(result, run, "tokenize", ErrorKind.BAD_DATA, DATASET_ID, *words.split())

    def test_a_missing_split(self, tokenize: Tokenize) -> None:
        run, result = tokenize(validation_split="test")
        assert_refused(result, run, "tokenize", ErrorKind.BAD_DATA, DATASET_ID, "'test'", "train", "validation")

    def test_a_damaged_input(self, data_stages: DataStages, model: dict[str, bytes]) -> None:
        run = data_stages.new_run()
        data_stages.publish_output(run, "mirror_model", model)
        data_stages.publish_output(run, "mirror_dataset", DATASET)
        dataset = output_of(run, "mirror_dataset")
        train = dataset.read("train.jsonl")
        run.store.write(dataset.path("train.jsonl"), train[:-3] + b"x" + train[-2:])
        result = data_stages.run_command("tokenize", run)
        assert_refused(result, run, "tokenize", ErrorKind.VERIFICATION_FAILED, "train.jsonl", "mirror")
