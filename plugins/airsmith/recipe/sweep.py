"""Several trainings of one recipe, which differ in a few fields: what is tried, and how the best is found."""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from airsmith.recipe.fields import RecipeSection, recipe_field
from airsmith.recipe.training import Method, Training

MOST_TRIALS = 1000

_GROUPS: Mapping[str, type[RecipeSection]] = {"method": Method, "training": Training}
_FIXED = ("method.name", "training.max_steps", "training.num_train_epochs", "training.eval_steps")
"""What makes losses comparable, or shapes the graph."""


class Range(RecipeSection):
    """Numbers between two bounds: whole ones where both bounds are."""

    min: int | float = recipe_field(description="Lowest value.", form="absent")
    max: int | float = recipe_field(description="Highest value.", form="absent")
    log: bool = recipe_field(False, description="Draw evenly among orders of magnitude.", form="absent")

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.min >= self.max or (self.log and self.min <= 0):
            lowest = "above 0 and " if self.log else ""
            raise ValueError(f"a range's min ({self.min}) must be {lowest}below its max ({self.max})")
        return self

    def draw(self, source: random.Random) -> int | float:
        """One of the numbers."""
        if self.log:
            value = math.exp(source.uniform(math.log(self.min), math.log(self.max)))
        else:
            value = source.uniform(self.min, self.max)
        if isinstance(self.min, int) and isinstance(self.max, int):
            return min(self.max, max(self.min, round(value)))
        return float(f"{value:.4g}")


class Sweep(RecipeSection):
    """Trials of a recipe: one of `grid`, `trials` and `random` says which. Fixed when the DAG is parsed."""

    grid: dict[str, tuple[Any, ...]] = recipe_field(
        description="Values by field of `method` or `training`, for example `method.r: [4, 8, 16]`; every combination "
        "is a trial.",
        default_factory=dict,
        form="absent",
    )
    trials: tuple[dict[str, Any], ...] = recipe_field(
        (), description="The trials one by one, each with its values by field.", form="absent"
    )
    random: dict[str, Range | tuple[Any, ...]] = recipe_field(
        description="By field, values to draw from, or a range: `{min: 1e-5, max: 1e-3, log: true}`.",
        default_factory=dict,
        form="absent",
    )
    random_trials: int = recipe_field(
        8, description="Trials that are drawn from `random`.", form="absent", ge=1, le=MOST_TRIALS
    )
    seed: int = recipe_field(0, description="Seed of the drawing.", form="absent", ge=0)
    max_parallel_trials: int = recipe_field(2, description="Most trials that train at a time.", form="absent", ge=1)
    rungs: tuple[int, ...] = recipe_field(
        (),
        description="Steps at which the worst trials are given up (successive halving); the others go on with the "
        "schedule of the whole training. Empty: every trial trains to its end.",
        unit="optimizer steps",
        form="absent",
    )
    keep: float = recipe_field(
        0.5, description="Share of the trials that goes on from a rung.", form="absent", gt=0, lt=1
    )
    objective: Literal["eval_loss"] = recipe_field(
        "eval_loss",
        description="What decides: the lowest validation loss of the weights that a trial ends with.",
        form="absent",
    )

    @field_validator("rungs")
    @classmethod
    def _rungs_rise(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or any(step < 1 for step in value):
            raise ValueError(f"sweep.rungs is {list(value)}, but must be steps that rise, for example [50, 100]")
        return value

    @model_validator(mode="after")
    def _says_once_what_is_tried(self) -> Self:
        given = [name for name in ("grid", "trials", "random") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"sweep has {' and '.join(given) or 'none of grid, trials and random'}, but needs exactly one of grid, "
                "trials and random"
            )
        for key in (*self.grid, *self.random, *(key for trial in self.trials for key in trial)):
            _check_field(key)
        for key, values in (*self.grid.items(), *self.random.items()):
            if values == ():
                raise ValueError(f"sweep gives {key} no value: list some, or take it out")
        if math.prod(len(values) for values in self.grid.values()) > MOST_TRIALS:
            raise ValueError(f"sweep.grid has more than {MOST_TRIALS} combinations: shorten a list")
        return self

    def values(self) -> list[dict[str, Any]]:
        """What each trial sets, by dotted key; the same trials in the same order every time."""
        if self.trials:
            return [dict(trial) for trial in self.trials]
        if self.grid:
            return [dict(zip(self.grid, each, strict=True)) for each in itertools.product(*self.grid.values())]
        source = random.Random(self.seed)
        return [
            {key: of.draw(source) if isinstance(of, Range) else source.choice(of) for key, of in self.random.items()}
            for _ in range(self.random_trials)
        ]

    def survivors(self, trials: int) -> int:
        """How many of so many trials go on from a rung."""
        return max(1, math.ceil(trials * self.keep))


def _check_field(key: str) -> None:
    known = [
        field
        for group, model in _GROUPS.items()
        for name in model.model_fields
        if (field := f"{group}.{name}") not in _FIXED
    ]
    if key in known:
        return
    if key in _FIXED:
        raise ValueError(
            f"sweep cannot vary {key}: trials must be comparable; vary another field of method or training"
        )
    near = difflib.get_close_matches(key, known, 1, 0.5)
    raise ValueError(
        f"sweep varies {key}, which is no field of method or training; "
        + (f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}")
    )
