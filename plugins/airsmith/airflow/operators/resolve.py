"""The first task of a run: it resolves the recipe, or reports why the recipe cannot be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.context import Context

from airsmith.airflow.connections import connection_password
from airsmith.airflow.operators.base import typed_errors
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.settings import load_settings

OVERRIDES = "overrides"
"""The form's field that takes any recipe field by its dotted key."""


class ResolveOperator(BaseOperator):
    """Resolve the run: merge, check and pin the recipe, and write the spec that every stage reads.

    :param recipe_file: path of the recipe.
    :param is_sweep: whether to run the trials of the recipe's sweep.
    """

    ui_color = "#fef7e0"

    def __init__(self, *, recipe_file: str, is_sweep: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe_file = recipe_file
        self.is_sweep = is_sweep

    def execute(self, context: Context) -> str:
        """Resolve the run.

        :returns: URI of the run's folder, the only value passed between tasks.
        :raises StageError: if the recipe or the request is invalid.
        """
        from airsmith.pipeline.resolve import RunRequest, resolve

        form = dict(context["params"])
        request = RunRequest(
            dag_id=context["dag"].dag_id,
            run_id=context["run_id"],
            recipe_file=Path(self.recipe_file),
            overrides=form.pop(OVERRIDES, None) or {},
            form=form,
            bundle_version=_bundle_version(context),
            is_sweep=self.is_sweep,
        )
        with typed_errors(self.log):
            run = resolve(request, load_settings(), connection_password)
        self.log.info("This run's folder is %s", run.uri)
        return run.uri


class BrokenRecipeOperator(BaseOperator):
    """The only task of a recipe that cannot be run: it fails with the recipe's error.

    :param kind: kind of the error.
    """

    ui_color = "#fce8e6"

    def __init__(self, *, kind: str, message: str, hint: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.message, self.hint = kind, message, hint

    def execute(self, context: Context) -> None:
        """Fail.

        :raises StageError: always.
        """
        with typed_errors(self.log):
            raise AirsmithError(ErrorKind(self.kind), self.message, self.hint)


def _bundle_version(context: Context) -> str | None:
    """Commit of the DAG bundle that this run is pinned to; None under `dag.test()`."""
    bundle = getattr(context["ti"], "bundle_instance", None)
    return None if bundle is None else bundle.version
