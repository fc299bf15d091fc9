"""The Markdown pages of the DAGs in Airflow's UI."""

from __future__ import annotations

from airsmith.contracts.spec import Plan
from airsmith.errors import AirsmithError
from airsmith.recipe import Recipe

STAGE_SUMMARIES = {
    "resolve": "Merges recipe, form and overrides, checks the result, and pins every revision to a commit.",
    "preflight": "Checks that cluster, store and Hub can serve every pod of the run, before the first pod starts.",
    "mirror_model": "Copies the base model into the store and verifies it; refuses pickled weights.",
    "mirror_dataset": "Copies the dataset's files into the store and verifies them.",
    "tokenize": "Renders every example with the chat template, marks the tokens to train on, and packs them into rows.",
    "compile": "Compiles the training's graphs for the accelerator.",
    "train": "Trains the model, writing checkpoints to resume from and metrics while it runs.",
    "compare_trials": "Compares the trials of a sweep in a table and a plot.",
    "consolidate": "Combines the shards of a parallel training.",
    "merge": "Merges the adapter into the base model and verifies that the merged model computes the same.",
    "evaluate": "Compares the base model and the tuned model on the held-out examples.",
    "register": "Registers the tuned model as a new version, with its model card.",
    "deploy": "Serves the model behind an OpenAI-compatible endpoint.",
    "smoke_test": "Verifies that the endpoint answers as the tuned model, not as the base model.",
}
"""One sentence per task, for its page and for the DAG's table."""

SWEEP_SUMMARIES = {
    "begin_rung": "Begins a rung of the sweep: all trials, or the best of the previous rung.",
    "train": "Trains the trials of a rung, several at a time. A trial that fails does not fail the others.",
    "choose_trial": "Adopts the best trial's recipe and output as the run's.",
}
"""The same for the tasks that replace the training in a sweep."""

ENDPOINT_PAGE = """\
Changes one endpoint. Trigger it and choose the action in the form.

| action | fields | what happens |
|---|---|---|
| deploy | model, version, percent | A server with the version starts next to the current one. When it is ready, it \
receives all requests, or, with a percent below 100, that share of them as a canary. |
| shift traffic | endpoint, percent | The canary receives another share. 0 withdraws it; 100 promotes it to current. |
| roll back | endpoint | The canary is withdrawn; without a canary, the previous version serves again. |
| scale | endpoint, replicas | The number of replicas changes. |
| stop | endpoint | All servers and all other objects of the endpoint in the cluster are deleted. |

`smoke_test` then verifies what the endpoint serves. If that fails on a cluster, the previous version serves again and
the run fails. If a new server does not start, the endpoint stays unchanged.

With the local runtime an endpoint is one process: deploy replaces it, and stop ends it.
"""
"""The page of the DAG `endpoint`."""


def dag_page(recipe: Recipe, plan: Plan, recipe_file: str, recipe_text: str) -> str:
    """The page of a recipe's DAG: its purpose, its stages, the recipe."""
    rows = [f"| `{stage.stage}` | {STAGE_SUMMARIES[stage.stage]} |" for stage in plan.stages]
    return "\n".join(
        [
            recipe.description or f"Fine-tunes `{recipe.model.id}` on `{recipe.dataset.id}`.",
            "",
            f"**Base model** `{recipe.model.id}` · **dataset** `{recipe.dataset.id}` · "
            f"**method** {recipe.method.name} · **backend** {recipe.backend.name} · "
            f"**registered as** `models/{recipe.name}`",
            "",
            "A stage whose inputs have not changed does not run again: the run reuses its output.",
            "",
            "| stage | what it does |",
            "|---|---|",
            *rows,
            "",
            f"The recipe, `{recipe_file}`:",
            "",
            *_code_block("yaml", recipe_text),
        ]
    )


def broken_page(recipe_file: str, error: AirsmithError) -> str:
    """The page of a DAG whose recipe is broken."""
    return "\n".join(
        [
            f"**`{recipe_file}` cannot be run.**",
            "",
            *_code_block("", error.message),
            "",
            error.hint,
            "",
            f"Correct the file to restore this DAG; `airsmith recipe check {recipe_file}` checks it.",
        ]
    )


def _code_block(language: str, text: str) -> list[str]:
    """A code block with a fence longer than any in its content."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}{language}", text.rstrip(), fence]
