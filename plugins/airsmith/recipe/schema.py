"""JSON Schema of recipe files, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airsmith.recipe import Recipe

SCHEMA_FILE = Path(__file__).parent / "recipe.schema.json"


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe file, in which `name` is optional."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Airsmith recipe"
    schema["required"] = [key for key in schema["required"] if key != "name"]
    return schema


def schema_text() -> str:
    """The content of the schema file."""
    return json.dumps(recipe_schema(), indent=2) + "\n"
