"""`make demo` and `make stop`: fine-tune and serve a model on this machine with a real Airflow."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from airsmith.artifacts.layout import run_folder
from airsmith.artifacts.store import Store
from airsmith.contracts.run import Run
from airsmith.errors import AirsmithError
from airsmith.recipe.load import load_recipe
from airsmith.serving.local.endpoint import stop_all
from airsmith.settings import load_settings
from airsmith.terminal.report import Report, print_report, read_report
from airsmith.terminal.watch import watch
from demo import DATASET_ID, MODEL_ID
from demo.airflow_api import AirflowApi, Login
from demo.checks import check_demo, write_result
from demo.services import DemoPaths, Servers, ensure_servers, stop_servers

PATHS = DemoPaths(Path(__file__).resolve().parent.parent)
PARSE_SECONDS = 120
CI_WIDTH = 140


def main() -> int:
    """Run the command."""
    options = _parser().parse_args()
    # A file has no width: use one that fits answers side by side.
    console = Console(width=None if sys.stdout.isatty() else CI_WIDTH)
    try:
        if options.command == "stop":
            return _stop(console)
        return _demo_in_ci(options, console) if options.ci else _demo(options.recipe, console)
    except (AirsmithError, RuntimeError, TimeoutError) as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True)
        return 1


def _demo(recipe: str, console: Console) -> int:
    servers = _start(recipe, console)
    print_report(_fine_tune(recipe, servers, console), console)
    login = Login.read(PATHS.airflow_home)
    console.print(
        f"Airflow UI: {servers.airflow_address}  user {login.username}  password {login.password}", soft_wrap=True
    )
    console.print("Airflow and the endpoint keep running; `make stop` stops both.")
    return 0


def _demo_in_ci(options: argparse.Namespace, console: Console) -> int:
    """Run the recipe twice, check both runs, stop all servers, and print the measurements as the last line."""
    try:
        servers = _start(options.recipe, console)
        first = _fine_tune(options.recipe, servers, console)
        print_report(first, console)
        second = _fine_tune(options.recipe, servers, console)
        problems = check_demo(first, second, console)
    finally:
        _stop(console)
    for problem in problems:
        console.print(f"[red]check failed:[/] {problem}", soft_wrap=True)
    print(write_result(PATHS.checkout / "demo-result.json", first, second, options.setup_seconds), flush=True)
    return 1 if problems else 0


def _start(recipe_name: str, console: Console) -> Servers:
    recipe = load_recipe(PATHS.checkout / "dags" / "recipes" / f"{recipe_name}.yaml")
    PATHS.state.mkdir(exist_ok=True)
    on_local_hub = (recipe.model.id, recipe.dataset.id) == (MODEL_ID, DATASET_ID)
    if on_local_hub:
        console.print("Publishing the tiny model and the ticket dataset to the local Hub …")
        publish = [str(PATHS.stages_python), "-m", "demo.publish", "--root", str(PATHS.hub_root)]
        if subprocess.run(publish, cwd=PATHS.checkout).returncode:
            raise RuntimeError("Building the demo's model and dataset failed; see the output above.")
    console.print("Starting Airflow …")
    started_at = time.monotonic()
    servers = ensure_servers(PATHS, local_hub=on_local_hub)
    console.print(
        f"Airflow is ready at {servers.airflow_address} ({time.monotonic() - started_at:.0f} s)", soft_wrap=True
    )
    return servers


def _fine_tune(recipe: str, servers: Servers, console: Console) -> Report:
    """Trigger the recipe's DAG, show its progress until it finishes, and read its results."""
    api = AirflowApi(servers.airflow_address, Login.read(PATHS.airflow_home))
    dag_id = f"finetune_{recipe.replace('-', '_')}"
    api.wait_for_dag(dag_id, PARSE_SECONDS)
    run_id = api.trigger(dag_id)
    console.print(f"Started run {run_id} of DAG {dag_id}", soft_wrap=True)
    run = Run(Store.open(PATHS.store), run_folder(dag_id, run_id))
    watch(run, console, is_finished=lambda: api.run_state(dag_id, run_id) in ("success", "failed"))
    if api.run_state(dag_id, run_id) != "success":
        failed = ", ".join(api.failed_tasks(dag_id, run_id))
        raise RuntimeError(
            f"The run failed in {failed}. See the log at {servers.airflow_address}/dags/{dag_id}/runs/{run_id}"
        )
    return read_report(run)


def _stop(console: Console) -> int:
    endpoints = stop_all(load_settings())
    stopped = [*(f"endpoint {name}" for name in endpoints), *stop_servers(PATHS)]
    console.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", nargs="?", default="run", choices=["run", "stop"])
    parser.add_argument("--recipe", default="ticket-triage", help="name of a file in dags/recipes, without .yaml")
    parser.add_argument(
        "--ci", action="store_true", help="run twice, check both runs, stop all servers, print the measurements as JSON"
    )
    parser.add_argument("--setup-seconds", type=float, default=None, help="duration of the setup, for the measurements")
    return parser


if __name__ == "__main__":
    sys.exit(main())
