"""Reading examples from files, holding out a fraction, and refusing bad data by file, line, row or column."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.recipe.sources import DatasetSource
from airsmith_stages.data import examples
from airsmith_stages.data.examples import Example, Splits, read_splits
from tests.support.dataset_files import chat, chats, jsonl, write_files

GOOD = chats([("a", "b"), ("c", "d"), ("e", "f")])
HALF_A_CHARACTER = b'{"messages": []}\n{"messages": [{"role": "user", "content": "\\ud800"}]}\n'


def source(**fields: Any) -> DatasetSource:
    validation = {} if "validation_fraction" in fields else {"validation_split": "validation"}
    return DatasetSource.model_validate({"id": "tests/data", **validation, **fields})


def read(folder: Path, files: dict[str, bytes], **fields: Any) -> Splits:
    return read_splits(write_files(folder / "files", files), source(**fields), folder / "cache")


def refusal(folder: Path, files: dict[str, bytes], **fields: Any) -> str:
    def read_to_the_end() -> None:
        splits = read(folder, files, **fields)
        assert [*splits.train, *splits.validation]

    with pytest.raises(AirsmithError) as refused:
        read_to_the_end()
    assert refused.value.kind is ErrorKind.BAD_DATA
    assert refused.value.hint
    assert "tests/data" in refused.value.message
    return str(refused.value)


class TestFormats:
    def test_messages_keep_all_fields_for_the_template(self, tmp_path: Path) -> None:
        rows = [
            [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}],
            chat("c", "d"),
        ]
        splits = read(tmp_path, {"train.jsonl": jsonl({"messages": row} for row in rows), "validation.jsonl": GOOD})
        assert [list(example.messages) for example in splits.train] == rows

    def test_the_messages_column_can_be_mapped(self, tmp_path: Path) -> None:
        rows = jsonl({"conversation": chat("a", "b"), "id": number} for number in range(2))
        splits = read(tmp_path, {"train.jsonl": rows, "validation.jsonl": rows}, columns={"messages": "conversation"})
        assert list(splits.train)[1] == Example(1, messages=tuple(chat("a", "b")), split="train")

    def test_prompt_completion_as_csv(self, tmp_path: Path) -> None:
        files = {"train.csv": b"prompt,completion\n2 + 2 = ,four\n", "validation.csv": b"prompt,completion\na,b\n"}
        splits = read(tmp_path, files, format="prompt-completion")
        assert list(splits.train) == [Example(0, prompt="2 + 2 = ", completion="four", split="train")]

    @pytest.mark.parametrize(
        ("row", "columns", "question"),
        [
            ({"instruction": "Add.", "input": "2, 2", "output": "4"}, {}, "Add.\n\n2, 2"),
            ({"instruction": "Add.", "input": "", "output": "4"}, {}, "Add."),
            ({"instruction": "Add.", "output": "4"}, {}, "Add."),
            ({"q": "Add.", "c": "2, 2", "a": "4"}, {"instruction": "q", "input": "c", "output": "a"}, "Add.\n\n2, 2"),
        ],
    )
    def test_instructions_become_conversations(
        self, tmp_path: Path, row: dict[str, str], columns: dict[str, str], question: str
    ) -> None:
        files = {"train.jsonl": jsonl([row]), "validation.jsonl": jsonl([row])}
        splits = read(tmp_path, files, format="instruction", columns=columns)
        assert list(next(iter(splits.train)).messages) == chat(question, "4")


class TestHeldOut:
    @given(rows=st.integers(1, 200), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**32 - 1))
    def test_every_row_is_in_one_split_and_the_fraction_is_exact(self, rows: int, fraction: float, seed: int) -> None:
        recipe = source(validation_fraction=fraction, seed=seed)
        if math.ceil(fraction * rows) == rows:
            with pytest.raises(AirsmithError, match="holds out all"):
                examples._held_out(rows, recipe)
            return
        held_out = examples._held_out(rows, recipe)
        assert (len(held_out), held_out.sum()) == (rows, math.ceil(fraction * rows))
        assert (examples._held_out(rows, recipe) == held_out).all()

    def test_the_seed_determines_the_held_out_rows(self) -> None:
        drawn = {tuple(examples._held_out(100, source(validation_fraction=0.1, seed=seed))) for seed in range(5)}
        assert len(drawn) == 5

    def test_rows_keep_their_number_and_split(self, tmp_path: Path) -> None:
        files = {"train.jsonl": chats((str(number), "x") for number in range(10))}
        splits = read(tmp_path, files, validation_fraction=0.3)
        train, validation = list(splits.train), list(splits.validation)
        assert (len(train), len(validation)) == (len(splits.train), len(splits.validation)) == (7, 3)
        assert sorted(example.number for example in train + validation) == list(range(10))
        for example in train + validation:
            assert example.messages[0]["content"] == str(example.number)
            assert example.place == f"row {example.number} of 'train'"


class TestBrokenFiles:
    """The reader of `datasets` reports no line."""

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            pytest.param("train.jsonl", GOOD + b'{"messages": [\n', ["line 4", "not valid JSON"], id="broken JSON"),
            pytest.param("train.jsonl", GOOD + b'{"messages": "\xff"}\n', ["line 4", "not valid UTF-8"], id="UTF-8"),
            pytest.param("train.jsonl", b"\xff\n" + GOOD, ["line 1", "not valid UTF-8"], id="broken from the start"),
            pytest.param("train.jsonl", GOOD + b"[1]\n", ["line 4", "not a JSON object"], id="a list"),
            pytest.param("train.jsonl", HALF_A_CHARACTER, ["line 2", "surrogate"], id="half a character"),
            pytest.param("train.jsonl", b"", ["is empty"], id="empty"),
            pytest.param("sub/train.csv", b"messages\n\xff\n", ["line 2", "not valid UTF-8"], id="CSV"),
        ],
    )  # fmt: skip
    def test_file_and_line_are_named(self, tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
        message = refusal(tmp_path, {name: content, "validation.jsonl": GOOD})
        for word in (name, *words):
            assert word in message

    def test_invalid_utf8_that_the_reader_accepts_is_found(self, tmp_path: Path) -> None:
        row = json.dumps({"messages": chat("X", "b")}).encode().replace(b"X", b"\xe9t\xe9")
        assert "train.jsonl line 4 is not valid UTF-8" in refusal(
            tmp_path, {"train.jsonl": GOOD + row + b"\n", "validation.jsonl": GOOD}
        )

    def test_windows_line_ends_and_a_byte_order_mark_are_accepted(self, tmp_path: Path) -> None:
        rows = b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n")
        assert len(read(tmp_path, {"train.jsonl": rows, "validation.jsonl": GOOD}).train) == 3


class TestRefused:
    def test_a_missing_split(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, {"train.jsonl": GOOD})
        assert "'validation'" in message
        assert "train" in message
        assert "dataset.split" in message

    def test_a_split_without_rows(self, tmp_path: Path) -> None:
        files = {"train.csv": b"prompt,completion\n", "validation.csv": b"prompt,completion\na,b\n"}
        assert "'train'" in refusal(tmp_path, files, format="prompt-completion")

    def test_a_folder_without_data(self, tmp_path: Path) -> None:
        assert "'train'" in refusal(tmp_path, {"README.md": b"# Nothing\n"})

    def test_a_missing_column(self, tmp_path: Path) -> None:
        rows = jsonl([{"question": "a", "answer": "b"}])
        files = {"train.jsonl": rows, "validation.jsonl": rows}
        message = refusal(tmp_path, files, format="instruction", columns={"instruction": "question"})
        for word in ("'output'", "question, answer", "dataset.columns"):
            assert word in message

    @pytest.mark.parametrize(
        "messages",
        [
            pytest.param(chat("a"), id="no assistant"),
            pytest.param(chat("a", "b", "c"), id="user at the end"),
            pytest.param(chat("a", ""), id="empty answer"),
            pytest.param([], id="no turn"),
        ],
    )
    def test_a_conversation_without_an_answer(self, tmp_path: Path, messages: Any) -> None:
        rows = GOOD + jsonl([{"messages": messages}])
        message = refusal(tmp_path, {"train.jsonl": rows, "validation.jsonl": GOOD})
        assert "row 3 of 'train'" in message
        assert "assistant" in message

    @pytest.mark.parametrize("messages", ["text", [{"from": "human", "value": "a"}], None])
    def test_a_value_that_is_not_a_conversation(self, tmp_path: Path, messages: Any) -> None:
        rows = jsonl([{"messages": messages}])
        assert "row 0 of 'train'" in refusal(tmp_path, {"train.jsonl": rows, "validation.jsonl": rows})

    @pytest.mark.parametrize("other", [{"question": "a"}, {"messages": "text"}])
    def test_splits_with_different_columns(self, tmp_path: Path, other: Any) -> None:
        message = refusal(tmp_path, {"train.jsonl": jsonl([other]), "validation.jsonl": GOOD})
        assert "messages" in message or "list" in message
        assert "same columns" in message

    @pytest.mark.parametrize("row", [{"prompt": "a", "completion": ""}, {"prompt": None, "completion": "b"}])
    def test_an_empty_part(self, tmp_path: Path, row: dict[str, Any]) -> None:
        rows = jsonl([{"prompt": "a", "completion": "b"}, row])
        message = refusal(tmp_path, {"train.jsonl": rows, "validation.jsonl": rows}, format="prompt-completion")
        assert "row 1 of 'train'" in message

    def test_a_held_out_row_is_named_by_its_row_in_the_file(self, tmp_path: Path) -> None:
        rows = chats([("a", "b")] * 7) + jsonl([{"messages": chat("a")}])
        assert "row 7 of 'train'" in refusal(tmp_path, {"train.jsonl": rows}, validation_fraction=0.5)
