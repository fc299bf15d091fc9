"""Hyperparameter search: the trials of a recipe, and the selection of the best one."""

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

MAX_TRIALS = 1000

_GROUPS: Mapping[str, type[RecipeSection]] = {"method": Method, "training": Training}
_FIXED = ("method.name", "training.max_steps", "training.num_train_epochs", "training.eval_steps")
"""Fields that must not vary because losses would not be comparable, or because they shape the graph."""


class Range(RecipeSection):
    """Numbers between two bounds; integers if both bounds are integers."""

    min: int | float = recipe_field(description="Minimum.", form="absent")
    max: int | float = recipe_field(description="Maximum.", form="absent")
    log: bool = recipe_field(False, description="Draw from a log-uniform distribution.", form="absent")

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.min >= self.max or (self.log and self.min <= 0):
            lowest = "above 0 and " if self.log else ""
            raise ValueError(f"a range's min ({self.min}) must be {lowest}below its max ({self.max})")
        return self

    def draw(self, source: random.Random) -> int | float:
        """Draw a number."""
        if self.log:
            value = math.exp(source.uniform(math.log(self.min), math.log(self.max)))
        else:
            value = source.uniform(self.min, self.max)
        if isinstance(self.min, int) and isinstance(self.max, int):
            return min(self.max, max(self.min, round(value)))
        return float(f"{value:.4g}")


class Sweep(RecipeSection):
    """Trials of a recipe, defined by one of `grid`, `trials` and `random`. Fixed when the DAG is parsed."""

    grid: dict[str, tuple[Any, ...]] = recipe_field(
        description="Values by field of `method` or `training`, for example `method.r: [4, 8, 16]`; every combination "
        "is a trial.",
        default_factory=dict,
        form="absent",
    )
    trials: tuple[dict[str, Any], ...] = recipe_field(
        (), description="Explicit list of trials, each with its values by field.", form="absent"
    )
    random: dict[str, Range | tuple[Any, ...]] = recipe_field(
        description="Values to draw from by field, or a range: `{min: 1e-5, max: 1e-3, log: true}`.",
        default_factory=dict,
        form="absent",
    )
    random_trials: int = recipe_field(
        8, description="Number of trials to draw from `random`.", form="absent", ge=1, le=MAX_TRIALS
    )
    seed: int = recipe_field(0, description="Seed of the random draws.", form="absent", ge=0)
    max_parallel_trials: int = recipe_field(
        2, description="Maximum number of trials that train at the same time.", form="absent", ge=1
    )
    rungs: tuple[int, ...] = recipe_field(
        (),
        description="Steps at which the worst trials stop (successive halving); the others continue with the learning "
        "rate schedule of the full training. Leave empty to complete every trial.",
        unit="optimizer steps",
        form="absent",
    )
    keep: float = recipe_field(
        0.5, description="Fraction of the trials that continue after a rung.", form="absent", gt=0, lt=1
    )
    objective: Literal["eval_loss"] = recipe_field(
        "eval_loss",
        description="Selection criterion: the lowest validation loss of a trial's final weights.",
        form="absent",
    )

    @field_validator("rungs")
    @classmethod
    def _rungs_rise(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or any(step < 1 for step in value):
            raise ValueError(f"sweep.rungs is {list(value)}, but must be increasing steps, for example [50, 100]")
        return value

    @model_validator(mode="after")
    def _defines_its_trials(self) -> Self:
        given = [name for name in ("grid", "trials", "random") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"sweep has {' and '.join(given) or 'none of grid, trials and random'}, but requires exactly one of "
                "grid, trials and random"
            )
        for key in (*self.grid, *self.random, *(key for trial in self.trials for key in trial)):
            _check_field(key)
        for key, values in (*self.grid.items(), *self.random.items()):
            if values == ():
                raise ValueError(f"sweep has no values for {key}: add values or remove the field")
        if math.prod(len(values) for values in self.grid.values()) > MAX_TRIALS:
            raise ValueError(f"sweep.grid has more than {MAX_TRIALS} combinations: shorten a list")
        return self

    def values(self) -> list[dict[str, Any]]:
        """Each trial's values by dotted key, in a reproducible order."""
        if self.trials:
            return [dict(trial) for trial in self.trials]
        if self.grid:
            return [dict(zip(self.grid, each, strict=True)) for each in itertools.product(*self.grid.values())]
        source = random.Random(self.seed)
        return [
            {
                key: choices.draw(source) if isinstance(choices, Range) else source.choice(choices)
                for key, choices in self.random.items()
            }
            for _ in range(self.random_trials)
        ]

    def survivors(self, trials: int) -> int:
        """Number of trials that continue after a rung."""
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
            f"sweep cannot vary {key}, because trials must be comparable: vary another field of method or training"
        )
    near = difflib.get_close_matches(key, known, 1, 0.5)
    raise ValueError(
        f"sweep varies {key}, which is not a field of method or training; "
        + (f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}")
    )
