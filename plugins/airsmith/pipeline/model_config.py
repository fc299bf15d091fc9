"""The `config.json` of a recipe's base model, from the Hub, a store or the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airsmith.artifacts.read import open_artifact
from airsmith.artifacts.store import Store
from airsmith.errors import AirsmithError, ErrorKind
from airsmith.hub import read_model_file
from airsmith.process.hub_token import ReadConnection, hub_token, no_connections
from airsmith.recipe import Recipe
from airsmith.recipe.sources import source_kind
from airsmith.registry import get_version
from airsmith.settings import Settings

CONFIG = "config.json"


def read_config_file(file: Path) -> dict[str, Any]:
    """The config in a local file.

    :raises AirsmithError: `not_found` or `bad_data`, naming the file.
    """
    try:
        return _parsed(file.read_bytes(), str(file))
    except OSError as error:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"{file} cannot be read: {error.strerror}.", "Give the path of a model's config.json."
        ) from error


def read_model_config(
    recipe: Recipe, settings: Settings, read_connection: ReadConnection = no_connections
) -> dict[str, Any]:
    """The config of a recipe's base model: from the Hub, a store or the registry.

    :param read_connection: reads the Hub's token if it is an Airflow connection's password.
    :raises AirsmithError: if it cannot be read.
    """
    source = recipe.model.id
    kind = source_kind(source)
    if kind == "store":
        return _parsed(Store.open(source).read(CONFIG), f"{source}/{CONFIG}")
    if kind == "registry":
        return _parsed(_of_version(source, Store.open(settings.store)), f"{source}'s {CONFIG}")
    token = hub_token(recipe, settings, read_connection)
    content = read_model_file(source, recipe.model.revision, CONFIG, endpoint=settings.hub_endpoint, token=token)
    return _parsed(content, f"{source}'s {CONFIG}")


def _of_version(model_id: str, store: Store) -> bytes:
    _, name, number = model_id.split("/")
    version = get_version(store, name, int(number))
    artifact = open_artifact(store, version.model)
    if artifact is None:
        raise AirsmithError(
            ErrorKind.NOT_FOUND, f"The artifact of {model_id} no longer exists in the store.", "Choose another version."
        )
    return artifact.read(CONFIG)


def _parsed(content: bytes, name: str) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except ValueError as error:
        raise AirsmithError(ErrorKind.BAD_DATA, f"{name} is not valid JSON: {error}.", "Check the file.") from error
    if not isinstance(config, dict):
        raise AirsmithError(ErrorKind.BAD_DATA, f"{name} does not contain a JSON object.", "Check the file.")
    return config
