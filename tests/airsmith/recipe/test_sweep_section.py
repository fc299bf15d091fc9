"""A sweep expands into trials, each of which is a complete recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airsmith.errors import AirsmithError
from airsmith.recipe import Recipe
from airsmith.recipe.load import load_recipe
from airsmith.recipe.sweep import Range, Sweep
from tests.support.recipes import recipe_content
from tests.support.repository import REPOSITORY

CONTENT = recipe_content(training={"max_steps": 100, "eval_steps": 10})

ranks = st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True)
rates = st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=4, unique=True)


@given(ranks, rates)
def test_a_grid_has_every_combination_once(ranks: list[int], rates: list[float]) -> None:
    sweep = Sweep.model_validate({"grid": {"method.r": ranks, "training.learning_rate": rates}})
    tried = [(each["method.r"], each["training.learning_rate"]) for each in sweep.values()]
    assert sorted(tried) == sorted((rank, rate) for rank in ranks for rate in rates)
    assert tried == [tuple(each.values()) for each in sweep.values()]


@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_random_values_are_in_range_and_reproducible_by_seed(
    seed: int, trials: int, lowest: int, room: int, log: bool
) -> None:
    bounds = {"min": lowest, "max": lowest + room, "log": log}
    rate = {"min": 1e-5, "max": 1e-3, "log": log}
    content = {
        "random": {
            "method.r": bounds,
            "training.learning_rate": rate,
            "training.lr_scheduler_type": ["linear", "cosine"],
        },
        "random_trials": trials,
        "seed": seed,
    }
    values = Sweep.model_validate(content).values()
    assert values == Sweep.model_validate(content).values()
    assert len(values) == trials
    for each in values:
        assert isinstance(each["method.r"], int)
        assert lowest <= each["method.r"] <= lowest + room
        assert 1e-5 * 0.999 <= each["training.learning_rate"] <= 1e-3
        Recipe.model_validate(CONTENT).trial(each)


@given(st.integers(1, 1000), st.floats(0.01, 0.99))
def test_at_least_one_and_at_most_all_trials_survive_a_rung(trials: int, keep: float) -> None:
    sweep = Sweep.model_validate({"trials": [{"method.r": 1}], "keep": keep})
    assert 1 <= sweep.survivors(trials) <= trials


def test_a_trial_differs_from_its_recipe_only_in_its_values() -> None:
    recipe = Recipe.model_validate({**CONTENT, "sweep": {"grid": {"method.r": [4, 8]}}})
    trial = recipe.trial({"method.r": 8})
    assert (trial.method.r, trial.sweep) == (8, None)
    assert trial.model_copy(update={"method": recipe.method, "sweep": recipe.sweep}) == recipe


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "exactly one of grid, trials and random"),
        ({"grid": {"method.r": [4]}, "trials": [{"method.r": 4}]}, "sweep has grid and trials"),
        ({"grid": {"method.rank": [4]}}, r"sweep varies method\.rank.*did you mean method\.r"),
        ({"grid": {"model.id": ["a/b"]}}, r"sweep varies model\.id"),
        ({"grid": {"training.max_steps": [4]}}, r"cannot vary training\.max_steps"),
        ({"grid": {"method.r": []}}, r"no values for method\.r"),
        ({"grid": {"method.r": [4, 0]}}, r"trial 2 \(method\.r 0\) is not a valid recipe: method\.r"),
        ({"grid": {"method.r": list(range(1, 40)), "training.seed": list(range(40))}}, "more than 1000"),
        ({"random": {"method.r": {"min": 8, "max": 4}}}, "min"),
        ({"grid": {"method.r": [4]}, "rungs": [50, 20]}, "increasing"),
        ({"grid": {"method.r": [4]}, "rungs": [55]}, "use 50"),
        ({"grid": {"method.r": [4]}, "rungs": [100]}, r"max_steps is 100"),
    ],
)
def test_an_invalid_sweep_is_refused(tmp_path: Path, sweep: dict[str, Any], message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({**CONTENT, "sweep": sweep}))
    with pytest.raises(AirsmithError, match=message):
        load_recipe(file)


def test_a_sweep_requires_eval_steps() -> None:
    with pytest.raises(ValueError, match=r"set training\.eval_steps"):
        Recipe.model_validate({**CONTENT, "training": {"max_steps": 9}, "sweep": {"grid": {"method.r": [4]}}})


def test_integer_bounds_draw_integers() -> None:
    import random

    drawn = {Range(min=1, max=3).draw(random.Random(seed)) for seed in range(50)}
    assert drawn == {1, 2, 3}


def test_the_reference_sweep_has_ten_ranks() -> None:
    recipe = load_recipe(REPOSITORY / "dags" / "recipes" / "ticket-triage-ranks.yaml")
    assert recipe.sweep is not None
    assert [each["method.r"] for each in recipe.sweep.values()] == [4, 6, 8, 10, 12, 16, 20, 24, 32, 64]
