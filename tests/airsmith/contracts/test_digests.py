"""A digest depends on everything that determines a result, and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest

from airsmith.contracts.digests import checkpoint_key, flatten, stage_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.spec import RunSpec, StagePlan
from airsmith.contracts.stages import CONFIG, IGNORED_FIELDS, STAGES, TOKENIZER
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES
from airsmith.pipeline.plan import make_plan
from tests.support.recipes import new_recipe
from tests.support.runs import new_spec

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
VERSIONS = {"torch": "1", "transformers": "1", "tokenizers": "1", "datasets": "1", "peft": "1", "accelerate": "1"}


def spec_with(changes: Mapping[str, Any] | None = None, versions: Mapping[str, str] = VERSIONS) -> RunSpec:
    smallest = recipe = new_recipe()
    for key, value in (changes or {}).items():
        group, name = key.split(".")
        section = getattr(recipe, group).model_copy(update={name: value})
        recipe = recipe.model_copy(update={group: section})
    # Some of the changed values are invalid, so no plan can be made of the changed recipe.
    return new_spec(
        recipe,
        plan=make_plan(smallest),
        recipe_digest="",
        toolchains={image: dict(versions) for image in ("cpu", "train-cpu")},
        created_at=NOW,
    )


def pointers_with(**digests: str) -> dict[str, StagePointer]:
    return {
        stage: StagePointer(
            stage=stage,
            type="t",
            digest=digests.get(stage, stage),
            location="",
            properties={name: digests.get(name, name) for name in (TOKENIZER, CONFIG)},
            cached=False,
            started_at=NOW,
            seconds=0,
        )
        for stage in STAGES
    }


def digest(stage: str, changes: Mapping[str, Any] | None = None, **digests: str) -> str:
    return stage_digest(STAGES[stage], spec_with(changes), pointers_with(**digests))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "compile"])  # see test_graphs.py
def test_exactly_the_declared_fields_change_the_digest(stage: str) -> None:
    recipe = spec_with().recipe.model_dump(mode="json")
    for key in flatten(recipe):
        if key.count(".") != 1:
            continue
        declared = any(key == path or key.startswith(f"{path}.") for path in STAGES[stage].recipe_fields)
        ignored = any(key == path or key.startswith(f"{path}.") for path in IGNORED_FIELDS.get(stage, ()))
        changed = digest(stage, {key: "something else"}) != digest(stage)
        assert changed == (declared and not ignored), key


@pytest.mark.parametrize("stage", STAGES)
def test_every_determining_input_changes_the_digest(stage: str) -> None:
    spec = spec_with()
    every_stage = tuple(StagePlan(stage=name, image="cpu") for name in STAGES)
    whole = spec.model_copy(update={"plan": spec.plan.model_copy(update={"stages": every_stage})})
    for source in STAGES[stage].inputs:
        pointers = pointers_with(**{source.property or source.stage: "another"})
        for each in (whole, spec) if spec.plan.has(stage) else (whole,):
            counts = each.plan.has(source.stage) and source.affects_digest
            changed = stage_digest(STAGES[stage], each, pointers) != stage_digest(STAGES[stage], each, pointers_with())
            assert changed is counts, source


def test_tokens_are_reused_if_only_the_weights_change() -> None:
    assert digest("tokenize", mirror_model="another") == digest("tokenize")


def test_a_library_changes_the_digests_of_the_stages_that_declare_it() -> None:
    newer = spec_with(versions={**VERSIONS, "peft": "2"})
    for stage, same in (("train", False), ("tokenize", True), ("mirror_model", True)):
        assert (stage_digest(STAGES[stage], newer, pointers_with()) == digest(stage)) is same


def test_a_pause_changes_the_output_and_keeps_the_checkpoint_key() -> None:
    whole = spec_with()
    paused = whole.model_copy(update={"stop_at_step": 50})
    contract = STAGES["train"]
    assert stage_digest(contract, paused, pointers_with()) != stage_digest(contract, whole, pointers_with())
    assert checkpoint_key(contract, paused, pointers_with()) == checkpoint_key(contract, whole, pointers_with())


def test_the_checkpoint_key_does_not_depend_on_devices_or_nodes() -> None:
    def key(changes: Mapping[str, Any]) -> str:
        return checkpoint_key(STAGES["train"], spec_with(changes), pointers_with())

    assert key({"backend.devices": 4}) == key({"backend.nodes": 2}) == key({})
    assert key({"training.seed": 1}) != key({})


def test_a_missing_input_names_the_stage_to_run() -> None:
    with pytest.raises(AirsmithError, match="needs the output of mirror_model") as caught:
        stage_digest(STAGES["tokenize"], spec_with(), {})
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_stages_are_listed_after_their_inputs() -> None:
    seen: set[str] = set()
    for contract in STAGES.values():
        assert {source.stage for source in contract.inputs} <= seen
        seen.add(contract.name)


def test_every_error_kind_has_a_retry_rule() -> None:
    assert set(RETRIES) == set(ErrorKind)


@pytest.mark.parametrize("kind", ErrorKind)
def test_an_error_round_trips_as_one_json_line(kind: ErrorKind) -> None:
    error = AirsmithError(kind, 'with "quotes"\nand lines', "a hint")
    assert "\n" not in error.to_json_line()
    found = AirsmithError.from_json_line(error.to_json_line())
    assert found is not None
    assert (found.kind, found.message, found.hint) == (kind, error.message, error.hint)


@pytest.mark.parametrize("line", ["", "INFO: fine", '{"error": "no_such_kind", "message": "x"}', '{"error":', "{}"])
def test_other_lines_are_not_parsed_as_errors(line: str) -> None:
    assert AirsmithError.from_json_line(line) is None
