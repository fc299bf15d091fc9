"""Imported by transformers."""
