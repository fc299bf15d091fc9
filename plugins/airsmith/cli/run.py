"""`airsmith run`, `sweep`, `plan`, `watch` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from airsmith.cli.app import app, console

RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of one in the folder of recipes.")]
Changes = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A field to change for this run; may be repeated.")
]
RunId = Annotated[str, typer.Option(help="Name of the run; that of an earlier one goes on with it.")]


@app.command("run")
def run_recipe(recipe: RecipeName, changes: Changes = [], run_id: RunId = "") -> None:  # noqa: B006
    """Run a recipe's stages one by one on this machine, without Airflow."""
    _run(recipe, changes, run_id, is_sweep=False)


@app.command("sweep")
def sweep_recipe(recipe: RecipeName, changes: Changes = [], run_id: RunId = "") -> None:  # noqa: B006
    """Run the trials of a recipe's sweep one by one on this machine, and go on with the best."""
    _run(recipe, changes, run_id, is_sweep=True)


def _run(recipe: str, changes: list[str], run_id: str, *, is_sweep: bool) -> None:
    from airsmith.pipeline.sequence import local_request, run_sequence
    from airsmith.settings import load_settings
    from airsmith.terminal.lines import LinePrinter

    settings = load_settings()
    printer = LinePrinter(console)
    request = local_request(recipe, changes, run_id, settings.recipes, is_sweep=is_sweep)
    run = run_sequence(request, settings, printer.run, printer.stage, printer.line)
    console.print(f"Done. See the result with: airsmith report {run.uri}", soft_wrap=True, markup=False)


@app.command("plan")
def plan_recipe(
    recipe: RecipeName,
    model_config: Annotated[
        Optional[Path], typer.Option(help="A config.json to estimate with, instead of the model's own.")
    ] = None,
    hours: Annotated[Optional[float], typer.Option(min=0, help="Expected hours of training, for the cost.")] = None,
) -> None:
    """Print every pod that a run would have on a cluster, the training's memory, and the cost. Asks no cluster."""
    from airsmith.pipeline.preview import preview_run
    from airsmith.pipeline.sequence import find_recipe_file
    from airsmith.settings import load_settings
    from airsmith.terminal.plan import print_preview

    settings = load_settings()
    print_preview(preview_run(find_recipe_file(recipe, settings.recipes), settings, model_config), console, hours)


@app.command("watch")
def watch_run(
    run: Annotated[str, typer.Argument(help="URI of a run, or a part of its name; the newest when empty.")] = "",
) -> None:
    """Show the progress of a run until it ends."""
    from airsmith.settings import load_settings
    from airsmith.terminal.runs import find_run
    from airsmith.terminal.watch import watch

    if not watch(find_run(load_settings().store, run), console):
        raise typer.Exit(1)


@app.command("report")
def report_run(
    run: Annotated[str, typer.Argument(help="URI of a run, or a part of its name; the newest when empty.")] = "",
) -> None:
    """Show the result of a run: answers, exact match, loss, seconds, endpoint."""
    from airsmith.settings import load_settings
    from airsmith.terminal.report import print_report, read_report
    from airsmith.terminal.runs import find_run

    print_report(read_report(find_run(load_settings().store, run)), console)
