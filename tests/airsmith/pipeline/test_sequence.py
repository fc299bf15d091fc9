"""A run from the command line: which recipe, which changes, which run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.sequence import local_request

WriteRecipe = Callable[..., Path]


def test_a_recipe_is_a_file_or_a_name_in_the_folder(write_recipe: WriteRecipe):
    file = write_recipe("ticket-triage")
    for recipe in (str(file), "ticket-triage"):
        request = local_request(recipe, [], "", file.parent)
        assert request.recipe_file == file
        assert request.dag_id == "finetune_ticket_triage"


def test_an_unknown_recipe_is_told_the_known_ones(write_recipe: WriteRecipe):
    file = write_recipe("ticket-triage")
    with pytest.raises(AirsmithError, match="ticket-triag'") as failure:
        local_request("ticket-triag", [], "", file.parent)
    assert failure.value.kind is ErrorKind.BAD_RECIPE
    assert "ticket-triage" in failure.value.hint


def test_changes_are_yaml(write_recipe: WriteRecipe):
    file = write_recipe()
    changes = ["training.max_steps=5", "method.target_modules=[q_proj, v_proj]", "dataset.subset=null", "model.id=a=b"]
    assert local_request(str(file), changes, "", file.parent).overrides == {
        "training.max_steps": 5,
        "method.target_modules": ["q_proj", "v_proj"],
        "dataset.subset": None,
        "model.id": "a=b",
    }


@pytest.mark.parametrize("change", ["training.max_steps", "training.max_steps=[5"])
def test_a_change_without_a_value_is_refused(write_recipe: WriteRecipe, change: str):
    with pytest.raises(AirsmithError, match=r"--set training\.max_steps"):
        local_request(str(write_recipe()), [change], "", Path())


def test_a_named_run_is_gone_on_with_and_an_unnamed_one_is_new(write_recipe: WriteRecipe):
    file = write_recipe()
    assert local_request(str(file), [], "mine", file.parent).run_id == "mine"
    assert local_request(str(file), [], "", file.parent).run_id.startswith("cli__")
