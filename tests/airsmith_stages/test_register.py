"""A registered version has provenance and a unique number, and becomes champion only if it is worse in no metric."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from airsmith.artifacts.read import Artifact
from airsmith.contracts.run import Run
from airsmith.contracts.stages import ArtifactType
from airsmith.errors import AirsmithError
from airsmith.registry import get_champion, get_version, list_versions
from airsmith_stages.stage_runner import run_stage
from tests.support.model_artifacts import ModelArtifacts, run_command
from tests.support.power_cuts import runs_cut_off
from tests.support.stage_runs import output_of, remove_folder
from tests.support.tiny_models import load_model, logits, relative_distance

NUMBERS = {
    "exact_match_base": 0.02,
    "exact_match_tuned": 0.98,
    "loss_base": 6.4,
    "loss_tuned": 0.0123456,
    "examples": 200,
}
"""Metrics of an evaluation."""


@pytest.fixture
def upstream(artifacts: ModelArtifacts) -> dict[str, Artifact]:
    """The artifacts of a version, except the evaluation."""
    base = artifacts.base_model(files={"README.md": "---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n"})
    adapter = artifacts.adapter(base)
    merged = artifacts.publish(ArtifactType.MODEL, "merged", artifacts.folder / "base")
    return {"mirror_model": base, "tokenize": artifacts.tokens(), "train": adapter, "merge": merged}


def card_of(run: Run) -> str:
    pointer = run.pointer("register")
    assert pointer is not None
    return run.store.read(f"{pointer.location}/README.md").decode()


def test_the_command_registers_a_version_with_a_model_card(
    artifacts: ModelArtifacts, upstream: dict[str, Artifact]
) -> None:
    run = artifacts.new_run(evaluate=artifacts.evaluation(**NUMBERS), recipe={"description": "Says less."}, **upstream)
    run_command("register", run)
    pointer = run.pointer("register")
    assert pointer is not None
    assert (pointer.type, pointer.location) == ("model_version", "models/tiny/1")
    assert pointer.properties == {"version": "1"}
    version = get_version(run.store, "tiny", 1)
    assert {"model": version.model, "adapter": version.adapter, "base_model": version.base_model} == {
        "model": "artifacts/model/merged",
        "adapter": "artifacts/adapter/adapter",
        "base_model": "artifacts/base_model/base",
    }
    assert version.base == {"id": "tests/tiny-llama", "revision": "a" * 40}
    assert version.evaluation == "artifacts/evaluation/evaluation"
    assert version.metrics == NUMBERS
    card = card_of(run)
    for expected in (
        "# tiny 1\n",
        "Says less.",
        f"`tests/tiny-llama` at `{'a' * 40}`",
        f"`tests/chats` at `{'b' * 40}`, digest `{'d' * 12}`",
        "| method | lora |",
        "`tests` / `run-1`",
        f"digest `{run.read_spec().recipe_digest[:12]}`",
        "airsmith 0",
        "apache-2.0",
        "Metrics on 200 held-out examples",
        "| exact match | 0.02 | 0.98 |",
        "| loss | 6.4 | 0.01235 |",
        "| token accuracy | – | – |",
    ):
        assert expected in card, expected
    front_matter = yaml.safe_load(card.split("---\n")[1])
    assert front_matter == {
        "license": "apache-2.0",
        "base_model": "tests/tiny-llama",
        "datasets": "tests/chats",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["airsmith"],
    }


def test_the_card_shows_how_to_load_the_model(artifacts: ModelArtifacts, upstream: dict[str, Artifact]) -> None:
    run = artifacts.new_run(evaluate=artifacts.evaluation(**NUMBERS), **upstream)
    run_stage("register", run)
    lines = re.search(r"```python\n(.*?)```", card_of(run), re.DOTALL)
    assert lines is not None
    names: dict[str, Any] = {}
    exec(lines[1], names)
    assert relative_distance(logits(load_model(artifacts.folder / "base")), logits(names["model"].eval())) == 0
    assert names["tokenizer"].chat_template


def test_a_registered_result_keeps_its_number(artifacts: ModelArtifacts, upstream: dict[str, Artifact]) -> None:
    evaluation = artifacts.evaluation(**NUMBERS)
    first = run_stage("register", artifacts.new_run(evaluate=evaluation, **upstream))
    again = run_stage("register", artifacts.new_run(evaluate=evaluation, **upstream))
    other = run_stage("register", artifacts.new_run(evaluate=artifacts.evaluation("other", **NUMBERS), **upstream))
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert (again.location, again.metrics, again.properties) == (first.location, first.metrics, first.properties)
    assert other.location == "models/tiny/2"


def test_concurrent_registrations_get_distinct_numbers(
    artifacts: ModelArtifacts, upstream: dict[str, Artifact]
) -> None:
    runs = [artifacts.new_run(evaluate=artifacts.evaluation(f"e{n}", loss_tuned=n), **upstream) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        pointers = list(pool.map(lambda run: run_stage("register", run), runs))
    assert sorted(pointer.location for pointer in pointers) == [f"models/tiny/{n}" for n in range(1, 7)]
    for run, pointer in zip(runs, pointers, strict=True):
        number = int(pointer.properties["version"])
        assert get_version(run.store, "tiny", number).evaluation == output_of(run, "evaluate").folder
        assert f"# tiny {number}\n" in card_of(run)


def test_concurrent_registrations_of_one_result_are_one_version(
    artifacts: ModelArtifacts, upstream: dict[str, Artifact]
) -> None:
    evaluation = artifacts.evaluation(**NUMBERS)
    runs = [artifacts.new_run(evaluate=evaluation, **upstream) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert {pointer.location for pointer in pool.map(lambda run: run_stage("register", run), runs)} == {
            "models/tiny/1"
        }
    assert len(list_versions(artifacts.store, "tiny")) == 1


@pytest.mark.parametrize(
    ("exact_match", "loss", "champion"),
    [
        (0.99, 0.4, 2), (0.98, 0.5, 2), (0.98, 0.6, 1), (0.97, 0.4, 1), (1.0, float("nan"), 1), (None, 0.1, 1),
    ],
    ids=["better", "as good", "larger loss", "fewer right", "no loss", "no exact match"],
)  # fmt: skip
def test_a_version_becomes_champion_if_it_is_worse_in_no_metric(
    artifacts: ModelArtifacts, upstream: dict[str, Artifact], exact_match: float | None, loss: float, champion: int
) -> None:
    first = artifacts.evaluation("first", exact_match_tuned=0.98, loss_tuned=0.5)
    run_stage("register", artifacts.new_run(evaluate=first, **upstream))
    metrics = {"loss_tuned": loss, **({} if exact_match is None else {"exact_match_tuned": exact_match})}
    if loss != loss:
        del metrics["loss_tuned"]
    run_stage("register", artifacts.new_run(evaluate=artifacts.evaluation("second", **metrics), **upstream))
    found = get_champion(artifacts.store, "tiny")
    assert found is not None
    assert found.version == champion
    if champion == 2:
        assert found.reason == f"exact match {exact_match:.4g} against 0.98, loss {loss:.4g} against 0.5 of version 1"
        assert [(event.version, event.reason) for event in found.history] == [(1, "the first version")]


def test_a_fully_trained_model_has_no_adapter(artifacts: ModelArtifacts, upstream: dict[str, Artifact]) -> None:
    del upstream["train"]
    recipe = {"method": {"name": "full"}, "name": "whole"}
    run = artifacts.new_run(evaluate=artifacts.evaluation(), train=upstream["merge"], recipe=recipe, **upstream)
    run_stage("register", run)
    version = get_version(run.store, "whole", 1)
    assert (version.adapter, version.model) == (None, "artifacts/model/merged")
    assert "| method | full |" in card_of(run)


def test_a_missing_upstream_output_is_named(artifacts: ModelArtifacts, upstream: dict[str, Artifact]) -> None:
    run = artifacts.new_run(**upstream)
    with pytest.raises(AirsmithError, match="needs the output of evaluate"):
        run_stage("register", run)
    assert not list(run.store.list("models"))


def test_the_next_attempt_completes_what_a_power_cut_left(
    artifacts: ModelArtifacts, upstream: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = artifacts.evaluation(**NUMBERS)

    def start() -> Run:
        remove_folder(artifacts.store, "models")
        return artifacts.new_run(evaluate=evaluation, **upstream)

    seen = set()
    for run in runs_cut_off("register", start, monkeypatch):
        versions, champion = list_versions(run.store, "tiny"), get_champion(run.store, "tiny")
        card = run.store.exists("models/tiny/1/README.md")
        pointed = run.pointer("register") is not None
        assert not pointed or (card and champion and versions)
        assert not card or (champion and versions)
        seen.add((len(versions), champion is not None, card, pointed))
        run_stage("register", run)
        assert [version.version for version in list_versions(run.store, "tiny")] == [1]
        assert get_champion(run.store, "tiny") is not None
        assert "# tiny 1\n" in card_of(run)
    assert {(0, False, False, False), (1, False, False, False), (1, True, False, False)} <= seen
