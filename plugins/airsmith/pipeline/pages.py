"""What a recipe's DAG says about itself in Airflow's UI, in Markdown."""

from __future__ import annotations

from airsmith.contracts.spec import Plan
from airsmith.errors import AirsmithError
from airsmith.recipe import Recipe

STAGE_SUMMARIES = {
    "resolve": "Merges recipe, form and overrides, checks the result, and pins every revision to a commit.",
    "preflight": "Looks whether cluster, store and Hub will serve every pod of the run, before the first one starts.",
    "mirror_model": "Copies the base model into the store, verified, without pickled weights.",
    "mirror_dataset": "Copies the dataset's files into the store, verified.",
    "tokenize": "Renders every example with the chat template, marks the tokens that are learnt, packs them into rows.",
    "compile": "Compiles the training's graphs for the accelerator.",
    "train": "Trains, with checkpoints to go on from and metrics while it runs.",
    "compare_trials": "Draws the trials of a sweep beside each other, as a table and a plot.",
    "consolidate": "Puts the shards of a parallel training together.",
    "merge": "Merges the adapter into the base model and proves that the merged model computes the same.",
    "evaluate": "Compares base and tuned model on the held-out examples.",
    "register": "Gives the tuned model a version in the registry, with its model card.",
    "deploy": "Serves the model behind an OpenAI-compatible endpoint.",
    "smoke_test": "Proves that the endpoint answers as the tuned model, not as the base.",
}
"""One sentence per task, for its page and for the DAG's table."""

SWEEP_SUMMARIES = {
    "begin_rung": "Begins a rung of the sweep: all trials, or the best of the rung before.",
    "train": "Trains the trials of a rung, some at a time. One that fails does not fail the others.",
    "choose_trial": "Makes the best trial's recipe and output those of the run.",
}
"""The same for the tasks that stand in the training's place."""

ENDPOINT_PAGE = """\
Changes one endpoint, by hand: trigger it and say in the form what to do.

| action | fields | what happens |
|---|---|---|
| deploy | model, version, percent | A server with the version starts beside what is served. Once it answers, it takes \
all requests, or with a percent below 100 its share of them. |
| shift traffic | endpoint, percent | The version beside gets another share. 0 withdraws it; 100 lets it take over. |
| roll back | endpoint | A version beside is withdrawn; without one, what was served before serves again. |
| scale | endpoint, replicas | The endpoint has that many servers. |
| stop | endpoint | All servers end, and every object of the endpoint in the cluster. |

`smoke_test` proves what has come to be served. Where the proof fails, on a cluster what was served before serves
again, and the run is red. A server that does not come up leaves the endpoint as it was.

On one machine an endpoint is one process: a version is deployed in its place, or it is stopped.
"""
"""The page of the DAG `endpoint`."""


def dag_page(recipe: Recipe, plan: Plan, recipe_file: str, recipe_text: str) -> str:
    """The page of a recipe's DAG: what it does, its stages, the recipe itself."""
    rows = [f"| `{stage.stage}` | {STAGE_SUMMARIES[stage.stage]} |" for stage in plan.stages]
    return "\n".join(
        [
            recipe.description or f"Fine-tunes `{recipe.model.id}` on `{recipe.dataset.id}`.",
            "",
            f"**Base model** `{recipe.model.id}` · **dataset** `{recipe.dataset.id}` · "
            f"**method** {recipe.method.name} · **backend** {recipe.backend.name} · "
            f"**registered as** `models/{recipe.name}`",
            "",
            "A stage whose inputs have not changed is not run again: it points to the result that is there.",
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
    """The page of a DAG whose recipe cannot be read."""
    return "\n".join(
        [
            f"**`{recipe_file}` cannot be run.**",
            "",
            *_code_block("", error.message),
            "",
            error.hint,
            "",
            f"This DAG becomes whole again once the file is right; `airsmith recipe check {recipe_file}` checks it.",
        ]
    )


def _code_block(language: str, text: str) -> list[str]:
    """A block that its own content cannot close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}{language}", text.rstrip(), fence]
