"""The ticket triage dataset: reproducible, without leaks, and decidable from the text."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from demo.ticket_triage import DATA
from demo.ticket_triage.generate import EXAMPLES, normalise, write_dataset
from demo.ticket_triage.phrases import ASIDES, ISSUES, SETTLED, URGENCIES

Example = tuple[str, dict[str, str]]


def read_examples(name: str) -> list[Example]:
    """Tickets with their labels."""
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
            f"run python -m demo.ticket_triage.generate: {name}"
        )


def test_another_seed_writes_other_tickets(tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=8)
    assert (tmp_path / "validation.jsonl").read_bytes() != (DATA / "validation.jsonl").read_bytes()


def test_the_splits_have_their_sizes(splits: dict[str, list[Example]]) -> None:
    assert {name: len(examples) for name, examples in splits.items()} == {"train.jsonl": 2000, "validation.jsonl": 200}


def test_no_ticket_occurs_twice_in_or_across_the_splits(splits: dict[str, list[Example]]) -> None:
    tickets = Counter(normalise(ticket) for ticket, _ in chain(*splits.values()))
    assert tickets.most_common(1)[0][1] == 1


def test_the_same_ticket_in_other_clothes_counts_as_the_same() -> None:
    assert normalise("Hi!  It's\tE42, again.") == normalise("hi it s e42 AGAIN")
    assert normalise("error E42") != normalise("error E43")


def test_every_pair_of_labels_is_equally_frequent(splits: dict[str, list[Example]]) -> None:
    for examples in splits.values():
        counts = Counter((labels["team"], labels["urgency"]) for _, labels in examples)
        assert set(counts) == {(team, urgency) for team in ISSUES for urgency in URGENCIES}
        assert max(counts.values()) - min(counts.values()) <= 2


def test_the_text_decides_the_labels(splits: dict[str, list[Example]]) -> None:
    openings = {team: [issue.partition("{product}")[0] for issue in issues] for team, issues in ISSUES.items()}
    for ticket, labels in chain(*splits.values()):
        teams = {team for team, starts in openings.items() for start in starts if start != "The " and start in ticket}
        assert teams <= {labels["team"]}, ticket
        said = {urgency for urgency, cues in URGENCIES.items() for cue in cues if cue and cue in ticket}
        assert (said or {"normal"}) == {labels["urgency"]}, ticket


def test_no_sentence_stands_for_two_things() -> None:
    sentences = [*chain(*ISSUES.values()), *chain(*URGENCIES.values()), *chain(*SETTLED.values()), *ASIDES]
    counts = Counter(sentence for sentence in sentences if sentence)
    assert [sentence for sentence, count in counts.items() if count > 1] == []
