"""A run without Airflow: the same spec and the same stages, one after the other in this process."""

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
from airsmith.process.stage_process import LogLine, bring_to_output
from airsmith.serving.local.endpoint import deploy
from airsmith.settings import Settings


def run_sequence(
    request: RunRequest,
    settings: Settings,
    on_resolved: Callable[[Run], None],
    on_stage: Callable[[StagePointer], None],
    log_line: LogLine,
) -> Run:
    """Resolve a run and run its stages. The same run id resumes an earlier run.

    :param on_resolved: called with the resolved run.
    :param on_stage: called with the pointer of each finished stage.
    :param log_line: called with each line of the stages' logs.
    :raises AirsmithError: the error of the first stage that fails; the outputs of earlier stages are kept.
    """
    run = resolve(request, settings)
    on_resolved(run)
    for stage in run.read_spec().plan.stages:
        if stage.runs_in_worker:
            pointer = deploy(run, settings)
        elif stage.stage == "train" and request.is_sweep:
            pointer = _sweep(run, settings, log_line)
        else:
            pointer = bring_to_output(stage.stage, run, settings, log_line)
        on_stage(pointer)
    return run


def _sweep(run: Run, settings: Settings, log_line: LogLine) -> StagePointer:
    """Train the trials one by one, and continue with the best."""

    def train(trial: Run) -> None:
        log_line(logging.INFO, f"Trial {trial.trial_name}")
        bring_to_output("train", trial, settings, log_line)

    def on_failure(trial: Run, error: AirsmithError) -> None:
        log_line(logging.ERROR, f"Trial {trial.trial_name} failed: {error}")

    run_rungs(run, train, on_failure)
    winner = choose_winner(run)
    log_line(logging.INFO, f"The winner is {winner.name}, with a validation loss of {winner.eval_loss}")
    pointer = run.pointer("train")
    assert pointer is not None
    return pointer


def local_request(
    recipe: str, changes: Iterable[str], run_id: str, recipes: Path, *, is_sweep: bool = False
) -> RunRequest:
    """The request of a command line.

    :param recipe: path of a recipe file, or the name of one in the folder.
    :param is_sweep: whether to run the trials of the recipe's sweep.
    :param changes: `key=value`, the value in YAML.
    :param run_id: id of the run; a new one if empty.
    :raises AirsmithError: `bad_recipe` if no such file exists or a change has no value.
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
    """The recipe file of a command line, given by its path or by its name in the folder.

    :raises AirsmithError: `bad_recipe`, naming the recipes in the folder.
    """
    candidates = [Path(recipe), *(recipes / f"{recipe}{suffix}" for suffix in (".yaml", ".yml"))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.stem for file in recipes.glob("*.y*ml"))) or "none"
    raise AirsmithError(
        ErrorKind.BAD_RECIPE,
        f"{recipe!r} is neither a file nor a recipe in {recipes}.",
        f"Recipes in that folder: {known}.",
    )


def _assignment(change: str) -> tuple[str, Any]:
    key, equals, value = change.partition("=")
    if not equals:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"--set {change} has no value.", "Write it as in --set training.max_steps=5."
        )
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise AirsmithError(
            ErrorKind.BAD_RECIPE, f"The value of --set {change} is not valid YAML.", "Quote it."
        ) from error
