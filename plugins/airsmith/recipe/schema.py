"""JSON Schema of a recipe's file, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airsmith.recipe import Recipe

SCHEMA_FILE = Path(__file__).parent / "recipe.schema.json"


def recipe_schema() -> dict[str, Any]:
    """The schema of what stands in a file, where `name` may be absent."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Airsmith recipe"
    schema["required"] = [key for key in schema["required"] if key != "name"]
    return schema


def schema_text() -> str:
    """The schema as the text of its file."""
    return json.dumps(recipe_schema(), indent=2) + "\n"
