"""A sweep: trials, each a run inside the folder of the sweep's run, trained rung by rung until one wins.

A trial's folder is named after its number, the values that it sets, and the step at which its rung ends:
`trials/03-r=8-at-50`, or `trials/03-r=8` in the last rung.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.pointers import StagePointer, StageStatus
from airsmith.contracts.recording import StageRecord
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec, TrialResult
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.recipe.sweep import Sweep

TRAIN = "train"
_SHARED = ("mirror_model", "mirror_dataset", "tokenize")
_BASE = "sweep.json"
"""The spec that `resolve` wrote, kept after the run's spec has become the winner's."""
_MAX_LABEL_LENGTH = 40


@dataclass(frozen=True)
class Trial:
    """One trial.

    :param name: its number and the values that it sets.
    :param values: values by dotted key.
    """

    name: str
    values: dict[str, Any]

    def folder(self, stop_at_step: int | None) -> str:
        """Name of its folder in the rung that ends at this step."""
        return self.name if stop_at_step is None else f"{self.name}-at-{stop_at_step}"


def stops_of(sweep: Sweep) -> tuple[int | None, ...]:
    """The step at which each rung ends; None for the last, which trains to the end."""
    return (*sweep.rungs, None)


def begin_rung(run: Run, number: int) -> list[Run]:
    """Write the specs of a rung's trials: all trials in the first rung, later the best of the previous rung.

    :param number: number of the rung, from 0.
    :returns: the trials' runs, the best first.
    :raises AirsmithError: if no trial of the previous rung has a result.
    """
    base = _base(run)
    sweep = _sweep(base)
    trials = trials_of(base.recipe)
    if number > 0:
        before = stops_of(sweep)[number - 1]
        entered = [trial for trial in trials if run.trial(trial.folder(before)).has_spec()]
        trials = _ranked(run, entered, before)[: sweep.survivors(len(entered))]
    else:
        StageRecord.start(TRAIN, run).write_status("running")
    stop = stops_of(sweep)[number]
    return [_begin(run, base, trial, stop) for trial in trials]


def choose_winner(run: Run) -> TrialResult:
    """Adopt the best trial's recipe and output as the run's; the run then continues like any other.

    :raises AirsmithError: if no trial was trained to the end.
    """
    base = _base(run)
    trials = trials_of(base.recipe)
    finished = [trial for trial in trials if run.trial(trial.name).has_spec()]
    winner = _ranked(run, finished, None)[0]
    results = tuple(_result(run, trial, base, is_winner=trial == winner) for trial in trials)
    of_winner = run.trial(winner.name)
    pointer = of_winner.pointer(TRAIN)
    assert pointer is not None
    recipe = base.recipe.trial(winner.values).model_copy(update={"sweep": base.recipe.sweep})
    run.write(_BASE, base.model_dump_json(indent=2).encode())
    run.write_spec(_with(base, recipe, winner, plan=base.plan, trials=results))
    run.write_metrics("train-000000", of_winner.metrics())
    progress = of_winner.progress()
    if progress is not None:
        run.write_progress(progress)
    run.write_pointer(pointer)
    seconds = sum(each.seconds for each in _trained(run, trials, _sweep(base)))
    run.write_status(StageStatus(stage=TRAIN, state="done", started_at=base.created_at, seconds=seconds))
    return next(result for result in results if result.is_winner)


def trials_of(recipe: Recipe) -> list[Trial]:
    """The trials of a recipe's sweep, in the order of their numbers."""
    values = _sweep_of(recipe).values()
    digits = len(str(len(values)))
    return [Trial(f"{number:0{digits}d}-{_label(each)}", each) for number, each in enumerate(values, start=1)]


def run_rungs(run: Run, train: Callable[[Run], object], on_failure: Callable[[Run, AirsmithError], object]) -> None:
    """Train all trials, rung by rung, one after the other in this process.

    :param on_failure: called with a trial that failed and its error; the others continue.
    """
    for number in range(len(stops_of(_sweep(_base(run))))):
        for trial in begin_rung(run, number):
            try:
                train(trial)
            except AirsmithError as error:
                if error.kind is ErrorKind.INTERRUPTED:
                    raise
                on_failure(trial, error)


def _begin(run: Run, base: RunSpec, trial: Trial, stop: int | None) -> Run:
    of_trial = run.trial(trial.folder(stop))
    for stage in _SHARED:
        pointer = run.pointer(stage)
        if pointer is not None:
            of_trial.write_pointer(pointer)
    recipe = base.recipe.trial(trial.values)
    plan = make_plan(recipe)
    alone = plan.model_copy(update={"stages": (plan.stage(TRAIN),)})
    of_trial.write_spec(_with(base, recipe, trial, plan=alone, stop_at_step=stop))
    return of_trial


def _with(base: RunSpec, recipe: Recipe, trial: Trial, **changes: Any) -> RunSpec:
    changed = tuple(sorted({*base.changed_fields, *trial.values}))
    fields = {"recipe": recipe, "recipe_digest": recipe_digest(recipe), "changed_fields": changed}
    return base.model_copy(update={**fields, **changes})


def _base(run: Run) -> RunSpec:
    """The spec that `resolve` wrote, even after a winner was chosen."""
    spec = run.read_spec()
    return run.read_spec(_BASE) if spec.trials else spec


def _sweep(spec: RunSpec) -> Sweep:
    return _sweep_of(spec.recipe)


def _sweep_of(recipe: Recipe) -> Sweep:
    if recipe.sweep is None:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE,
            f"The recipe {recipe.name} has no sweep.",
            "Add a section `sweep`.",
        )
    return recipe.sweep


def _ranked(run: Run, trials: list[Trial], stop: int | None) -> list[Trial]:
    """The trials that have a result, the best first; ties keep their order."""
    losses = {trial.name: _loss(run, trial, stop) for trial in trials}
    ranked = sorted((loss, trial.name, trial) for trial in trials if (loss := losses[trial.name]) is not None)
    if not ranked:
        until = "to the end" if stop is None else f"to step {stop}"
        raise AirsmithError(
            ErrorKind.NOT_FOUND,
            f"None of {len(trials)} trials of {run.uri} was trained {until}.",
            "See the logs of the trials, and clear those that failed.",
        )
    return [trial for _, _, trial in ranked]


def _loss(run: Run, trial: Trial, stop: int | None) -> float | None:
    """The validation loss of a trial's current weights."""
    of_trial = run.trial(trial.folder(stop))
    pointer = of_trial.pointer(TRAIN)
    if pointer is None:
        return None
    keeps_best = of_trial.read_spec().recipe.training.load_best_model_at_end
    loss = pointer.metrics.get("eval_loss" if keeps_best else "last_eval_loss")
    return float(loss) if isinstance(loss, (int, float)) else None


def _result(run: Run, trial: Trial, base: RunSpec, *, is_winner: bool) -> TrialResult:
    """The result of a trial's last finished rung."""
    for stop in reversed(stops_of(_sweep(base))):
        pointer = run.trial(trial.folder(stop)).pointer(TRAIN)
        if pointer is not None:
            return TrialResult(
                name=trial.name,
                values=trial.values,
                steps=int(pointer.metrics["steps"] or 0),
                eval_loss=_loss(run, trial, stop),
                train_digest=pointer.digest,
                is_winner=is_winner,
            )
    return TrialResult(name=trial.name, values=trial.values, steps=0, eval_loss=None, train_digest="")


def _trained(run: Run, trials: list[Trial], sweep: Sweep) -> Iterator[StagePointer]:
    """The outputs of all trials in all rungs."""
    for trial in trials:
        for stop in stops_of(sweep):
            pointer = run.trial(trial.folder(stop)).pointer(TRAIN)
            if pointer is not None:
                yield pointer


def _label(values: dict[str, Any]) -> str:
    text = "-".join(f"{key.split('.')[-1]}={value}" for key, value in values.items())
    return re.sub(r"[^A-Za-z0-9=.+-]+", "_", text)[:_MAX_LABEL_LENGTH].strip("-_.")
