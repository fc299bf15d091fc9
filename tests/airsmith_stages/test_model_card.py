"""The model card is valid Markdown and YAML, whatever the recipe, the paths and the base model's card contain."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airsmith.recipe import Recipe
from airsmith.registry import ModelVersion, ModelVersionDraft, register_version
from airsmith_stages.model_card import UNKNOWN_LICENSE, Provenance, license_of, model_card
from tests.support.model_artifacts import ModelArtifacts

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


def version_in(artifacts: ModelArtifacts) -> ModelVersion:
    draft = ModelVersionDraft(
        digest="e" * 64, model="artifacts/model/m", base_model="artifacts/base_model/b", base={}, recipe_digest="f" * 64
    )
    return register_version(artifacts.store, "tiny", draft)


def card(
    artifacts: ModelArtifacts,
    *,
    recipe: dict[str, Any] | None = None,
    changed: tuple[str, ...] = (),
    license: str = UNKNOWN_LICENSE,
    weights_uri: str = "s3://bucket/artifacts/model/m/attempt=1",
    warm_restarts: int = 0,
) -> str:
    spec = artifacts.new_run(recipe=recipe).read_spec().model_copy(update={"changed_fields": changed})
    return model_card(version_in(artifacts), spec, Provenance("d" * 64, license, weights_uri, warm_restarts))


def front_matter(text: str) -> Any:
    begin, content, _ = text.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(content)


def block(text: str, language: str) -> str:
    found = re.search(rf"^(`{{3,}}){language}\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[2]


@given(license=TEXT)
def test_a_license_is_copied_from_card_to_card(artifacts_of_module: ModelArtifacts, license: str) -> None:
    base_card = f"---\n{yaml.safe_dump({'license': license}, allow_unicode=True)}---\n# Base\n"
    assert license_of(base_card) == license
    if license != UNKNOWN_LICENSE:
        assert front_matter(card(artifacts_of_module, license=license))["license"] == license


@pytest.fixture(scope="module")
def artifacts_of_module(tmp_path_factory: pytest.TempPathFactory) -> ModelArtifacts:
    return ModelArtifacts(tmp_path_factory.mktemp("model-card"))


@pytest.mark.parametrize(
    "base_card",
    [
        "", "# Base\n", "---\ntags: [x]\n---\n", "---\nlicense: [a, b]\n---\n", "---\nlicense: {\n---\n",
        "---\n- license\n---\n", "Text\n---\nlicense: mit\n---\n", "---\nlicense: mit\n",
    ],
    ids=["empty", "none", "no license", "a list", "broken", "no mapping", "not in front", "not closed"],
)  # fmt: skip
def test_a_card_without_a_license_gives_an_unknown_license(artifacts: ModelArtifacts, base_card: str) -> None:
    assert license_of(base_card) == UNKNOWN_LICENSE
    text = card(artifacts, license=license_of(base_card))
    assert "license" not in front_matter(text)
    assert "unknown: the base model's card names none" in text


def test_the_card_does_not_link_sources_outside_the_hub(artifacts: ModelArtifacts) -> None:
    recipe = {
        "model": {"id": "models/tiny/3"},
        "dataset": {"id": "s3://bucket/data", "validation_fraction": 0.1},
    }
    assert set(front_matter(card(artifacts, recipe=recipe))) == {"library_name", "pipeline_tag", "tags"}


def test_the_card_contains_the_complete_recipe(artifacts: ModelArtifacts) -> None:
    template = "{% for m in messages %}\n|{{ m }}|\n{% endfor %}"
    recipe = {
        "description": 'Grüße: | `x` "y" #z',
        "dataset": {"id": "tests/chats", "validation_fraction": 0.1, "chat_template": template},
        "training": {"learning_rate": 1e-5},
    }
    text = card(artifacts, recipe=recipe)
    assert (
        Recipe.model_validate(yaml.safe_load(block(text, "yaml")))
        == artifacts.new_run(recipe=recipe).read_spec().recipe
    )


def test_changed_values_stay_in_their_table_cell(artifacts: ModelArtifacts) -> None:
    template = "{% for m in messages %}\n| `{{ m }}` |\n{% endfor %}" + "x " * 200
    recipe = {"dataset": {"id": "tests/chats", "validation_fraction": 0.1, "chat_template": template}}
    text = card(artifacts, recipe=recipe, changed=("dataset.chat_template", "training.learning_rate"))
    (row,) = [line for line in text.splitlines() if line.startswith("| changed for this run |")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert row.count("`") == 4
    assert "`training.learning_rate: 0.0002`" in row
    assert len(row) < 200


@pytest.mark.parametrize("folder", ["/data/models/m", '/data/my "models"/it\'s', "/data/$HOME/ä b"])
def test_a_local_folder_is_quoted_for_python_and_the_shell(artifacts: ModelArtifacts, folder: str) -> None:
    text = card(artifacts, weights_uri=f"file://{folder}")
    assignment = ast.parse(block(text, "python")).body[1]
    assert isinstance(assignment, ast.Assign)
    assert ast.literal_eval(assignment.value) == folder
    words = shlex.split(block(text, "shell"))
    assert words[words.index("--model") + 1] == folder
    assert "aws" not in text


def test_a_bucket_is_downloaded_first(artifacts: ModelArtifacts) -> None:
    text = card(artifacts, weights_uri="s3://bucket/a prefix/m")
    (line,) = [line for line in text.splitlines() if "aws s3 sync" in line]
    assert shlex.split(line.split("`")[1]) == ["aws", "s3", "sync", "s3://bucket/a prefix/m", "model"]
    assert 'folder = "model"' in block(text, "python")


def test_the_card_reports_warm_restarts(artifacts: ModelArtifacts) -> None:
    rows = [line for line in card(artifacts, warm_restarts=2).splitlines() if line.startswith("| interrupted |")]
    assert rows == ["| interrupted | 2 times: training resumed by a warm restart, which resets the optimizer's state |"]
    assert "interrupted" not in card(artifacts)
