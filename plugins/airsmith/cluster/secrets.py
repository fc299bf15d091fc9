"""References to Secrets: never their values."""

from __future__ import annotations

from kubernetes.client import models as k8s

from airsmith.recipe import Recipe
from airsmith.settings import Settings

API_KEY = "API_KEY"
"""Key of the settings' Secret."""


def api_key_of(recipe: Recipe, settings: Settings) -> str | None:
    """Secret and key, `name/key`, of what requests must carry: the recipe's, else the deployment's."""
    if recipe.secrets.api_key is not None:
        return recipe.secrets.api_key.kubernetes_secret
    secret = settings.kubernetes.api_key_secret
    return f"{secret}/{API_KEY}" if secret is not None else None


def variable_from_secret(variable: str, name: str, key: str) -> k8s.V1EnvVar:
    """An environment variable that takes its value from a key of a Secret."""
    source = k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name=name, key=key))
    return k8s.V1EnvVar(name=variable, value_from=source)
