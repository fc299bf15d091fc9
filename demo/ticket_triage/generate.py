"""Write the dataset's two files: `python -m demo.ticket_triage.generate`.

The same seed gives the same bytes. Every ticket is unique across both files, ignoring case, white space and
punctuation, so the validation tickets are combinations of sentences that the training tickets do not contain.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from demo.ticket_triage import DATA
from demo.ticket_triage.phrases import ASIDES, CLOSINGS, GREETINGS, ISSUES, PRODUCTS, SETTLED, URGENCIES

SEED = 7
EXAMPLES = {"train.jsonl": 2_000, "validation.jsonl": 200}


def main() -> None:
    """Write the files into the committed folder or another one."""
    parser = argparse.ArgumentParser(description="Write the ticket triage dataset.")
    parser.add_argument("--folder", type=Path, default=DATA, help="output folder (default: %(default)s)")
    write_dataset(parser.parse_args().folder)


def write_dataset(folder: Path, seed: int = SEED) -> None:
    """Write `train.jsonl` and `validation.jsonl` into `folder`."""
    examples = unique_examples(random.Random(seed))
    for name, count in EXAMPLES.items():
        lines = [json.dumps(next(examples)) + "\n" for _ in range(count)]
        (folder / name).write_text("".join(lines), encoding="utf-8")


def unique_examples(rng: random.Random) -> Iterator[dict[str, Any]]:
    """An endless stream of examples in chat format, with uniform labels and unique normalized tickets."""
    labels = list(product(ISSUES, URGENCIES))
    seen: set[str] = set()
    while True:
        for team, urgency in rng.sample(labels, len(labels)):
            ticket = _compose_ticket(rng, team, urgency)
            while normalize(ticket) in seen:
                ticket = _compose_ticket(rng, team, urgency)
            seen.add(normalize(ticket))
            answer = json.dumps({"team": team, "urgency": urgency})
            yield {"messages": [{"role": "user", "content": ticket}, {"role": "assistant", "content": answer}]}


def normalize(text: str) -> str:
    """The text without case, punctuation and repeated white space, for comparing tickets."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _compose_ticket(rng: random.Random, team: str, urgency: str) -> str:
    body = [rng.choice(ISSUES[team]).format(product=rng.choice(PRODUCTS)), rng.choice(URGENCIES[urgency])]
    if rng.random() < 0.5:
        body.append(_compose_distraction(rng, team))
    rng.shuffle(body)
    sentences = [rng.choice(GREETINGS), *body, rng.choice(CLOSINGS)]
    return " ".join(sentence for sentence in sentences if sentence)


def _compose_distraction(rng: random.Random, team: str) -> str:
    """A sentence that determines no label: an aside, or praise for the work of another team."""
    if rng.random() < 0.5:
        return rng.choice(ASIDES).format(order=rng.randint(1000, 9999))
    return rng.choice(SETTLED[rng.choice([other for other in SETTLED if other != team])])


if __name__ == "__main__":
    main()
