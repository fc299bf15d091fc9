"""The typed recipe: model, loader, schema, trigger form and reference. Imports neither airflow nor torch."""

from airsmith.recipe.recipe import Recipe

__all__ = ["Recipe"]
