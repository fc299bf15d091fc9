"""A resolved run without a Hub, and stages whose behaviour a test decides."""

from __future__ import annotations

import stat
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from airsmith.artifacts.store import Store
from airsmith.contracts.digests import recipe_digest
from airsmith.contracts.run import Run
from airsmith.contracts.spec import RunSpec
from airsmith.pipeline.plan import make_plan
from airsmith.recipe import Recipe
from airsmith.settings import LocalSettings, Settings


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that `resolve` might have written; `mirror_model` and `mirror_dataset` could begin."""
    recipe = Recipe.model_validate(
        {
            "name": "tickets",
            "model": {"id": "demo/tiny-llama", "revision": "a" * 40},
            "dataset": {"id": "demo/ticket-triage", "revision": "b" * 40, "validation_split": "validation"},
        }
    )
    run = Run(Store.open(f"file://{tmp_path}/store"), "runs/finetune_tickets/manual-00000000")
    run.write_spec(
        RunSpec(
            dag_id="finetune_tickets",
            run_id="manual",
            recipe=recipe,
            recipe_file="tickets.yaml",
            recipe_digest=recipe_digest(recipe),
            plan=make_plan(recipe),
            airsmith_version="0",
            created_at=datetime.now(timezone.utc),
        )
    )
    return run


@pytest.fixture
def stages_that(tmp_path: Path) -> Callable[..., Settings]:
    """Settings whose stages' interpreter, whatever stage it is to run, does what the given code says."""

    def settings(code: str, **local: object) -> Settings:
        python = tmp_path / "python"
        python.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        return Settings(
            store=f"file://{tmp_path}/store",
            hub_endpoint="http://hub.test",
            local=LocalSettings.model_validate({"stages_python": python, **local}),
        )

    return settings
