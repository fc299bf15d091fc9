"""The command line itself: its groups of commands, and the console that they print to."""

from __future__ import annotations

import typer
from rich.console import Console

import airsmith

app = typer.Typer(no_args_is_help=True, add_completion=False, help=airsmith.__doc__, pretty_exceptions_enable=False)
recipe_commands = typer.Typer(no_args_is_help=True, help="Check recipes; print their schema and reference.")
settings_commands = typer.Typer(no_args_is_help=True, help="Show the settings of this deployment.")
app.add_typer(recipe_commands, name="recipe")
app.add_typer(settings_commands, name="settings")

console = Console()
