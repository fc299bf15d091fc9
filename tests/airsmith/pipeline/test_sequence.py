"""A run from the command line: its recipe, its overrides and its run id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.sequence import local_request

WriteRecipe = Callable[..., Path]


def test_a_recipe_is_given_by_path_or_by_name(write_recipe: WriteRecipe):
    file = write_recipe("ticket-triage")
    for recipe in (str(file), "ticket-triage"):
        request = local_request(recipe, [], "", file.parent)
        assert request.recipe_file == file
        assert request.dag_id == "finetune_ticket_triage"


def test_an_unknown_recipe_is_reported_with_the_existing_ones(write_recipe: WriteRecipe):
    file = write_recipe("ticket-triage")
    with pytest.raises(AirsmithError, match="ticket-triag'") as failure:
        local_request("ticket-triag", [], "", file.parent)
    assert failure.value.kind is ErrorKind.BAD_RECIPE
    assert "ticket-triage" in failure.value.hint


def test_values_of_set_are_parsed_as_yaml(write_recipe: WriteRecipe):
    file = write_recipe()
    changes = ["training.max_steps=5", "method.target_modules=[q_proj, v_proj]", "dataset.subset=null", "model.id=a=b"]
    assert local_request(str(file), changes, "", file.parent).overrides == {
        "training.max_steps": 5,
        "method.target_modules": ["q_proj", "v_proj"],
        "dataset.subset": None,
        "model.id": "a=b",
    }


@pytest.mark.parametrize("change", ["training.max_steps", "training.max_steps=[5"])
def test_a_set_option_without_a_valid_value_is_refused(write_recipe: WriteRecipe, change: str):
    with pytest.raises(AirsmithError, match=r"--set training\.max_steps"):
        local_request(str(write_recipe()), [change], "", Path())


def test_a_given_run_id_is_kept_and_a_new_one_is_generated(write_recipe: WriteRecipe):
    file = write_recipe()
    assert local_request(str(file), [], "mine", file.parent).run_id == "mine"
    assert local_request(str(file), [], "", file.parent).run_id.startswith("cli__")
