"""A digest changes with everything that determines a result, and with nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest

from airsmith.contracts.digests import checkpoint_key, flatten, stage_digest
from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.spec import RunSpec, StagePlan
from airsmith.contracts.stages import CONFIG, NOT_DETERMINING, STAGES, TOKENIZER
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.errors.retries import RETRIES
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
BASE: dict[str, Any] = {"name": "x", "model": {"id": "a/b"}, "dataset": {"id": "c/d", "validation_fraction": 0.1}}
VERSIONS = {"torch": "1", "transformers": "1", "tokenizers": "1", "datasets": "1", "peft": "1", "accelerate": "1"}


def spec_of(changes: Mapping[str, Any] | None = None, versions: Mapping[str, str] = VERSIONS) -> RunSpec:
    recipe = Recipe.model_validate(BASE)
    for key, value in (changes or {}).items():
        group, name = key.split(".")
        section = getattr(recipe, group).model_copy(update={name: value})
        recipe = recipe.model_copy(update={group: section})
    return RunSpec(
        dag_id="d",
        run_id="r",
        recipe=recipe,
        recipe_file="x.yaml",
        recipe_digest="",
        plan=make_plan(Recipe.model_validate(BASE)),
        airsmith_version="0",
        toolchains={image: dict(versions) for image in ("cpu", "train-cpu")},
        created_at=NOW,
    )


def pointers_of(**digests: str) -> dict[str, StagePointer]:
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
    return stage_digest(STAGES[stage], spec_of(changes), pointers_of(**digests))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "compile"])  # which test_graphs.py is about
def test_every_declared_field_changes_the_digest_and_no_other(stage: str) -> None:
    recipe = spec_of().recipe.model_dump(mode="json")
    for key in flatten(recipe):
        if key.count(".") != 1:
            continue
        declared = any(key == path or key.startswith(f"{path}.") for path in STAGES[stage].recipe_fields)
        ignored = any(key == path or key.startswith(f"{path}.") for path in NOT_DETERMINING.get(stage, ()))
        changed = digest(stage, {key: "something else"}) != digest(stage)
        assert changed == (declared and not ignored), key


@pytest.mark.parametrize("stage", STAGES)
def test_every_input_of_the_run_changes_the_digest(stage: str) -> None:
    spec = spec_of()
    every_stage = tuple(StagePlan(stage=name, image="cpu") for name in STAGES)
    whole = spec.model_copy(update={"plan": spec.plan.model_copy(update={"stages": every_stage})})
    for source in STAGES[stage].inputs:
        pointers = pointers_of(**{source.property or source.stage: "another"})
        for each in (whole, spec) if spec.plan.has(stage) else (whole,):
            counts = each.plan.has(source.stage) and source.determines
            changed = stage_digest(STAGES[stage], each, pointers) != stage_digest(STAGES[stage], each, pointers_of())
            assert changed is counts, source


def test_other_weights_under_the_same_tokenizer_need_no_new_tokens() -> None:
    assert digest("tokenize", mirror_model="another") == digest("tokenize")


def test_a_library_counts_where_it_is_declared() -> None:
    newer = spec_of(versions={**VERSIONS, "peft": "2"})
    for stage, same in (("train", False), ("tokenize", True), ("mirror_model", True)):
        assert (stage_digest(STAGES[stage], newer, pointers_of()) == digest(stage)) is same


def test_a_pause_makes_another_output_of_the_same_checkpoints() -> None:
    whole = spec_of()
    paused = whole.model_copy(update={"stop_at_step": 50})
    contract = STAGES["train"]
    assert stage_digest(contract, paused, pointers_of()) != stage_digest(contract, whole, pointers_of())
    assert checkpoint_key(contract, paused, pointers_of()) == checkpoint_key(contract, whole, pointers_of())


def test_a_checkpoint_is_found_again_on_other_devices() -> None:
    def key(changes: Mapping[str, Any]) -> str:
        return checkpoint_key(STAGES["train"], spec_of(changes), pointers_of())

    assert key({"backend.devices": 4}) == key({"backend.nodes": 2}) == key({})
    assert key({"training.seed": 1}) != key({})


def test_a_missing_input_names_the_stage_to_run() -> None:
    with pytest.raises(AirsmithError, match="needs the output of mirror_model") as caught:
        stage_digest(STAGES["tokenize"], spec_of(), {})
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_stages_come_after_their_inputs() -> None:
    seen: set[str] = set()
    for contract in STAGES.values():
        assert {source.stage for source in contract.inputs} <= seen
        seen.add(contract.name)


def test_every_kind_of_error_has_its_retry() -> None:
    assert set(RETRIES) == set(ErrorKind)


@pytest.mark.parametrize("kind", ErrorKind)
def test_an_error_travels_as_one_line(kind: ErrorKind) -> None:
    error = AirsmithError(kind, 'with "quotes"\nand lines', "a hint")
    assert "\n" not in error.to_json_line()
    found = AirsmithError.from_json_line(error.to_json_line())
    assert found is not None
    assert (found.kind, found.message, found.hint) == (kind, error.message, error.hint)


@pytest.mark.parametrize("line", ["", "INFO: fine", '{"error": "no_such_kind", "message": "x"}', '{"error":', "{}"])
def test_any_other_line_is_no_error(line: str) -> None:
    assert AirsmithError.from_json_line(line) is None
