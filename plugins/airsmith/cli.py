"""Every `airsmith …` command. Each is a few lines: the work is done in the modules that it names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

import airsmith
from airsmith.errors import AirsmithError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=airsmith.__doc__, pretty_exceptions_enable=False)
recipe_commands = typer.Typer(no_args_is_help=True, help="Check recipes; their schema and reference.")
settings_commands = typer.Typer(no_args_is_help=True, help="What this deployment has decided.")
app.add_typer(recipe_commands, name="recipe")
app.add_typer(settings_commands, name="settings")

console = Console()


def main() -> None:
    """Run the command line; an error that a person can act on is printed as one, without a traceback."""
    try:
        app()
    except AirsmithError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "kubernetes":
            raise
        print("error: This command speaks of pods and needs the library kubernetes.", file=sys.stderr)
        print("hint: pip install 'airsmith[kubernetes]'", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"airsmith {airsmith.__version__}")
        raise typer.Exit


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
    from airsmith.reference import write_reference

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


@app.command("chat")
def chat(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint.")],
    model: Annotated[Optional[str], typer.Option(help="One of several that it serves.")] = None,
    max_tokens: int = 256,
) -> None:
    """Talk to a served model, from wherever; an empty line or Ctrl-D ends it."""
    from airsmith.artifacts.store import Store
    from airsmith.serving.chat import Message, asking, find_endpoint, reached, stream_answer
    from airsmith.settings import load_settings

    messages: list[Message] = []
    asked = asking(find_endpoint(Store.open(load_settings().store), endpoint), model)
    with reached(asked) as found:
        while question := _question():
            messages.append({"role": "user", "content": question})
            answer = ""
            for piece in stream_answer(found, messages, max_tokens):
                answer += piece
                print(piece, end="", flush=True)
            print()
            messages.append({"role": "assistant", "content": answer})


@app.command("stop")
def stop(endpoint: Annotated[str, typer.Argument(help="Name of an endpoint.")]) -> None:
    """End an endpoint's servers, on this machine or in its cluster."""
    from airsmith.artifacts.store import Store
    from airsmith.serving.chat import find_endpoint
    from airsmith.settings import load_settings

    store = Store.open(load_settings().store)
    found = find_endpoint(store, endpoint)
    if found.namespace is None:
        from airsmith.serving.local.endpoint import stop_endpoint

        stopped = stop_endpoint(store, found.name)
    else:
        from airsmith.cluster.access import cluster_client
        from airsmith.serving.cluster import endpoint as kubernetes

        stopped = kubernetes.stop(store, found.name, cluster_client())
    print(f"Stopped {endpoint}." if stopped else f"{endpoint} was not running.")


@app.command("roll-back")
def roll_back(endpoint: Annotated[str, typer.Argument(help="Name of an endpoint in the cluster.")]) -> None:
    """Serve what an endpoint served before; a version beside another one is withdrawn, no more."""
    from airsmith.artifacts.store import Store
    from airsmith.cluster.access import cluster_client
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.settings import load_settings

    settings = load_settings()
    served = kubernetes.roll_back(Store.open(settings.store), endpoint, settings, cluster_client())
    print(f"{endpoint} serves version {served.version}.")


@app.command("scale")
def scale(
    endpoint: Annotated[str, typer.Argument(help="Name of an endpoint in the cluster.")],
    servers: Annotated[int, typer.Argument(min=1, help="How many servers it is to have.")],
) -> None:
    """Change how many servers an endpoint has, and wait for them."""
    from airsmith.artifacts.store import Store
    from airsmith.cluster.access import cluster_client
    from airsmith.serving.cluster import endpoint as kubernetes
    from airsmith.settings import load_settings

    kubernetes.scale(Store.open(load_settings().store), endpoint, servers, cluster_client())
    print(f"{endpoint} has {servers} server{'s' if servers > 1 else ''}.")


@app.command("janitor")
def tidy(
    delete: Annotated[
        list[str],
        typer.Option(metavar="KIND", help="Remove this kind: unfinished, uploads, endpoints, checkpoints or caches."),
    ] = [],  # noqa: B006
) -> None:
    """Say what nobody needs any more in the store and, of endpoints, in the cluster; Airflow is not asked."""
    from airsmith.janitor.rounds import checked_kinds, make_round
    from airsmith.settings import load_settings

    settings, told = load_settings(), checked_kinds(delete)
    client = None
    if settings.runtime == "kubernetes":
        from airsmith.cluster.access import cluster_client

        client = cluster_client()
    for section in make_round(settings, told, client, airflow=None):
        for line in section.lines():
            print(line)


def _question() -> str:
    try:
        return input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
