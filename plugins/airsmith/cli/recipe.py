"""`airsmith recipe …` and `airsmith settings …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from airsmith.cli.app import console, recipe_commands, settings_commands
from airsmith.errors import AirsmithError


@recipe_commands.command("check")
def check_recipes(files: Annotated[list[Path], typer.Argument(help="Recipe files.")]) -> None:
    """Check recipes, and say what each would run."""
    from airsmith.pipeline.plan import make_plan
    from airsmith.recipe.load import load_recipe

    broken = False
    for file in files:
        try:
            plan = make_plan(load_recipe(file))
        except AirsmithError as error:
            broken = True
            print(f"error: {error}", file=sys.stderr)
            continue
        batch = plan.batch
        print(f"{file}: ok")
        print(f"  stages: {', '.join(stage.stage for stage in plan.stages)}")
        print(
            f"  batch: {batch.per_device_train_batch_size} per device × {batch.gradient_accumulation_steps} accumulated"
            f" × {batch.data_parallel_size} on {plan.backend}"
        )
    if broken:
        raise typer.Exit(1)


@recipe_commands.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of a recipe file."""
    from airsmith.recipe.schema import schema_text

    print(schema_text(), end="")


@recipe_commands.command("docs")
def write_docs(folder: Annotated[Path, typer.Argument(help="Folder of the docs.")] = Path("docs")) -> None:
    """Write the schema and the reference pages of recipe and settings anew."""
    from airsmith.cli.reference import write_reference

    for path in write_reference(folder):
        print(f"wrote {path}")


@settings_commands.command("show")
def show_settings() -> None:
    """Print every setting and where its value comes from."""
    from airsmith.settings import settings_origins

    table = Table(box=None)
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for setting in settings_origins():
        table.add_row(setting.key, str(setting.value), setting.origin)
    console.print(table)
