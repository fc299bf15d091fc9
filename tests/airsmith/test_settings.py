"""Settings are read from a file and from variables, and every value has its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from airsmith.errors import AirsmithError
from airsmith.settings import BackendSettings, load_settings, settings_origins


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "airsmith.yaml"
    path.write_text("store: s3://bucket/prefix\nbackends:\n  cuda:\n    pool: gpus\n    retries: 5\n", encoding="utf-8")
    return path


def test_all_settings_have_defaults() -> None:
    settings = load_settings({})
    assert settings.store.startswith("file:///")
    assert settings.hub_endpoint == "https://huggingface.co"


def test_a_variable_wins_over_the_file(file: Path) -> None:
    settings = load_settings({"AIRSMITH_SETTINGS": str(file), "AIRSMITH_STORE": "file:///elsewhere"})
    assert settings.store == "file:///elsewhere"
    assert settings.backend("cuda") == BackendSettings(pool="gpus", retries=5)
    assert settings.backend("cpu") == BackendSettings()


def test_a_nested_variable_sets_a_nested_value() -> None:
    settings = load_settings({"AIRSMITH_LOCAL__SERVE_PORT": "8000", "AIRSMITH_BACKENDS__CPU__RETRIES": "0"})
    assert (settings.local.serve_port, settings.backend("cpu").retries) == (8000, 0)


def test_every_value_has_its_origin(file: Path) -> None:
    environment = {"AIRSMITH_SETTINGS": str(file), "AIRSMITH_TEAM": "nlp", "HF_ENDPOINT": "http://hub"}
    origins = {setting.key: (setting.value, setting.origin) for setting in settings_origins(environment)}
    assert origins["store"] == ("s3://bucket/prefix", f"{file}:1")
    assert origins["backends.cuda.pool"] == ("gpus", f"{file}:4")
    assert origins["team"] == ("nlp", "variable AIRSMITH_TEAM")
    assert origins["hub_endpoint"] == ("http://hub", "variable HF_ENDPOINT")
    assert origins["runtime"] == ("local", "default")


def test_a_misspelled_variable_is_reported_with_the_nearest_setting() -> None:
    with pytest.raises(AirsmithError, match=r"variable AIRSMITH_STOER: stoer is not a setting; did you mean store\?"):
        load_settings({"AIRSMITH_STOER": "x"})


def test_a_misspelled_key_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "airsmith.yaml"
    path.write_text("team: a\nstoer: x\n", encoding="utf-8")
    with pytest.raises(AirsmithError, match=r"airsmith.yaml:2: stoer is not a setting"):
        load_settings({"AIRSMITH_SETTINGS": str(path)})


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(AirsmithError, match="cpu"):
        load_settings({"AIRSMITH_BACKENDS__TPU__RETRIES": "1"})


def test_a_missing_interpreter_is_reported_with_the_command_that_makes_it(tmp_path: Path) -> None:
    settings = load_settings({"AIRSMITH_LOCAL__STAGES_PYTHON": str(tmp_path / "python")})
    with pytest.raises(AirsmithError, match="make setup"):
        settings.stages_python()
