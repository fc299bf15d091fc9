"""The plugin is loaded once, from the installed package or from a mounted plugins folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

LIST_PLUGINS = """
import json
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
found = [str(plugin.source) for plugin in plugins if plugin.name == "airsmith"]
from airflow.sdk.plugins_manager import integrate_macros_plugins
integrate_macros_plugins()
from airflow.sdk.execution_time import macros
print(json.dumps({"found": found, "errors": errors, "run_uri": macros.airsmith.run_uri("finetune_tickets", "a:b")}))
"""


@pytest.mark.parametrize(("folder", "source"), [("empty", "airsmith"), ("plugins", "airsmith_plugin.py")])
def test_the_plugin_is_loaded_once(tmp_path: Path, folder: str, source: str):
    plugins = REPOSITORY / "plugins" if folder == "plugins" else tmp_path
    listed = subprocess.run(
        [sys.executable, "-c", LIST_PLUGINS],
        env={
            **os.environ,
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
            "AIRSMITH_STORE": "s3://bucket/airsmith/",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(listed.stdout.splitlines()[-1])
    assert loaded["errors"] == {}
    (found,) = loaded["found"]
    assert source in found
    assert loaded["run_uri"].startswith("s3://bucket/airsmith/runs/finetune_tickets/a_b-")
