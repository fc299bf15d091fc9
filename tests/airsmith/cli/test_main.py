"""The command line, run as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY


def airsmith(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from airsmith.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_recipe_check_lists_the_stages() -> None:
    result = airsmith("recipe", "check", "dags/recipes/ticket-triage.yaml")
    assert result.returncode == 0, result.stderr
    assert "stages: mirror_model, mirror_dataset, tokenize, train" in result.stdout


def test_recipe_check_reports_the_mistakes_of_every_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("modle:\n  id: a/b\n", encoding="utf-8")
    result = airsmith("recipe", "check", str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml"))
    assert result.returncode == 1
    assert "one.yaml:1: modle is not a recipe key; did you mean model?" in result.stderr
    assert "two.yaml:1: modle" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_is_printed_with_a_hint_and_its_page_and_no_traceback() -> None:
    result = airsmith("watch", "file:///nowhere")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "\nhint: " in result.stderr
    assert result.stderr.endswith("\nsee: docs/errors/not_found.md\n")
    assert "Traceback" not in result.stderr


def test_settings_show_prints_origins() -> None:
    assert "default" in airsmith("settings", "show").stdout


def test_the_command_line_does_not_import_airflow() -> None:
    code = "import sys, airsmith.cli.main; sys.exit('airflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_plan_needs_neither_a_cluster_nor_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSMITH_HUB_ENDPOINT", "http://127.0.0.1:9")
    result = airsmith("plan", "dags/recipes/ticket-triage.yaml", "--model-config", "setup.cfg")
    assert result.returncode == 1
    assert "setup.cfg is not valid JSON" in result.stderr
    result = airsmith("plan", "ticket-triage")
    assert result.returncode == 0, result.stderr
    assert "Memory: unknown." in result.stdout
    assert "USD per hour of training" in result.stdout


def test_a_missing_library_is_reported_with_the_command_that_installs_it() -> None:
    hide_kubernetes = "import sys; sys.modules['kubernetes'] = None; sys.argv[1:] = ['plan', 'ticket-triage']"
    command = [sys.executable, "-c", f"{hide_kubernetes}\nfrom airsmith.cli.main import main; main()"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.endswith("hint: pip install 'airsmith[kubernetes]'\n")
    assert "Traceback" not in result.stderr
