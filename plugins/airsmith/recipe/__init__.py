"""The typed recipe: model, loader, schema and trigger form. Does not import airflow or torch."""

from airsmith.recipe.recipe import Recipe

__all__ = ["Recipe"]
