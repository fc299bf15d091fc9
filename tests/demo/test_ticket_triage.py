"""The ticket triage dataset is reproducible, has no leakage, and its labels follow from the text."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from demo.ticket_triage import DATA
from demo.ticket_triage.generate import EXAMPLES, normalize, write_dataset
from demo.ticket_triage.phrases import ASIDES, ISSUES, SETTLED, URGENCIES

Example = tuple[str, dict[str, str]]


def read_examples(name: str) -> list[Example]:
    """The tickets of a file, with their labels."""
    examples = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        ticket, answer = json.loads(line)["messages"]
        assert (ticket["role"], answer["role"]) == ("user", "assistant")
        examples.append((ticket["content"], json.loads(answer["content"])))
    return examples


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return {name: read_examples(name) for name in EXAMPLES}


def test_the_committed_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for name in EXAMPLES:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), (
            f"{name} is out of date; run python -m demo.ticket_triage.generate"
        )


def test_another_seed_writes_other_tickets(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=8)
    assert (tmp_path / "validation.jsonl").read_bytes() != (DATA / "validation.jsonl").read_bytes()


def test_the_splits_have_the_documented_sizes(splits: dict[str, list[Example]]) -> None:
    assert {name: len(examples) for name, examples in splits.items()} == {"train.jsonl": 2000, "validation.jsonl": 200}


def test_no_ticket_occurs_twice_within_or_across_the_splits(splits: dict[str, list[Example]]) -> None:
    tickets = Counter(normalize(ticket) for ticket, _ in chain(*splits.values()))
    assert tickets.most_common(1)[0][1] == 1


def test_normalization_ignores_case_punctuation_and_white_space() -> None:
    assert normalize("Hi!  It's\tE42, again.") == normalize("hi it s e42 AGAIN")
    assert normalize("error E42") != normalize("error E43")


def test_all_label_combinations_are_equally_frequent(splits: dict[str, list[Example]]) -> None:
    for examples in splits.values():
        counts = Counter((labels["team"], labels["urgency"]) for _, labels in examples)
        assert set(counts) == {(team, urgency) for team in ISSUES for urgency in URGENCIES}
        assert max(counts.values()) - min(counts.values()) <= 2


def test_the_text_determines_the_labels(splits: dict[str, list[Example]]) -> None:
    openings = {team: [issue.partition("{product}")[0] for issue in issues] for team, issues in ISSUES.items()}
    for ticket, labels in chain(*splits.values()):
        teams = {team for team, starts in openings.items() for start in starts if start != "The " and start in ticket}
        assert teams <= {labels["team"]}, ticket
        urgencies = {urgency for urgency, cues in URGENCIES.items() for cue in cues if cue and cue in ticket}
        assert (urgencies or {"normal"}) == {labels["urgency"]}, ticket


def test_each_sentence_has_only_one_meaning() -> None:
    sentences = [*chain(*ISSUES.values()), *chain(*URGENCIES.values()), *chain(*SETTLED.values()), *ASIDES]
    counts = Counter(sentence for sentence in sentences if sentence)
    assert [sentence for sentence, count in counts.items() if count > 1] == []
