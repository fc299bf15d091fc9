"""The entry point of the command `airsmith`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import airsmith
from airsmith.cli import endpoint, janitor, recipe, run
from airsmith.cli.app import app
from airsmith.errors import AirsmithError

__all__ = ["app", "endpoint", "janitor", "main", "recipe", "run"]


def main() -> None:
    """Run the command line; an AirsmithError is printed with its hint and documentation page, without a traceback."""
    try:
        app()
    except AirsmithError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        print(f"see: {error.page}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "kubernetes":
            raise
        print("error: This command requires the Python package kubernetes.", file=sys.stderr)
        print("hint: pip install 'airsmith[kubernetes]'", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"airsmith {airsmith.__version__}")
        raise typer.Exit
