"""A run without Airflow: the same spec, the same stages in the same order, one after the other in this terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from airsmith.contracts.pointers import StagePointer
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.pipeline.graph import dag_id_of
from airsmith.pipeline.resolve import RunRequest, resolve
from airsmith.pipeline.sweep import choose_winner, run_rungs
from airsmith.process.stage_process import TellLine, bring_to_output
from airsmith.serving.local.endpoint import deploy
from airsmith.settings import Settings


def run_sequence(
    request: RunRequest,
    settings: Settings,
    tell_run: Callable[[Run], None],
    tell_stage: Callable[[StagePointer], None],
    tell_line: TellLine,
) -> Run:
    """Resolve a run and bring each of its stages to its output. Running it again goes on where it ended.

    :param tell_run: is given the run once it is resolved.
    :param tell_stage: is given the pointer of each stage that has its output.
    :param tell_line: is given each line of the stages' logs.
    :raises AirsmithError: of the first stage that fails; what the stages before it made stays.
    """
    run = resolve(request, settings)
    tell_run(run)
    for stage in run.read_spec().plan.stages:
        if stage.runs_in_worker:
            pointer = deploy(run, settings)
        elif stage.stage == "train" and request.is_sweep:
            pointer = _sweep(run, settings, tell_line)
        else:
            pointer = bring_to_output(stage.stage, run, settings, tell_line)
        tell_stage(pointer)
    return run


def _sweep(run: Run, settings: Settings, tell_line: TellLine) -> StagePointer:
    """Train the trials one by one, and go on with the best."""

    def train(trial: Run) -> None:
        tell_line(logging.INFO, f"Trial {trial.trial_name}")
        bring_to_output("train", trial, settings, tell_line)

    def tell_failure(trial: Run, error: AirsmithError) -> None:
        tell_line(logging.ERROR, f"Trial {trial.trial_name} failed: {error}")

    run_rungs(run, train, tell_failure)
    winner = choose_winner(run)
    tell_line(logging.INFO, f"The winner is {winner.name}, with a validation loss of {winner.eval_loss}")
    pointer = run.pointer("train")
    assert pointer is not None
    return pointer


def local_request(
    recipe: str, changes: Iterable[str], run_id: str, recipes: Path, *, is_sweep: bool = False
) -> RunRequest:
    """What a command line asks for.

    :param recipe: a file's path, or the name of a recipe in the folder.
    :param is_sweep: whether the recipe's trials are run, and not the recipe as it is.
    :param changes: `key=value`, the value in YAML.
    :param run_id: of the run; a new one when empty.
    :raises AirsmithError: `bad_recipe` where there is no such file or a change has no value.
    """
    file = find_recipe_file(recipe, recipes)
    return RunRequest(
        dag_id=dag_id_of(file, "sweep" if is_sweep else "finetune"),
        run_id=run_id or f"cli__{datetime.now(timezone.utc).isoformat(timespec='seconds')}",
        recipe_file=file,
        overrides=dict(_assignment(change) for change in changes),
        is_sweep=is_sweep,
    )


def find_recipe_file(recipe: str, recipes: Path) -> Path:
    """The file that a command line names: by its path, or by a recipe's name in the folder.

    :raises AirsmithError: `bad_recipe`, naming the recipes that are there.
    """
    candidates = [Path(recipe), *(recipes / f"{recipe}{suffix}" for suffix in (".yaml", ".yml"))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.stem for file in recipes.glob("*.y*ml"))) or "none"
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"{recipe!r} is neither a file nor a recipe in {recipes}.",
        f"The recipes there: {known}.",
    )


def _assignment(change: str) -> tuple[str, Any]:
    key, equals, value = change.partition("=")
    if not equals:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"--set {change} gives no value.", "Write --set training.max_steps=5."
        )
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise AirsmithError(ErrorKind.BAD_RECIPE, f"The value in --set {change} is no YAML.", "Quote it.") from error
