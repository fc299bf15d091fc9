"""Airsmith's container images: built, pushed, and named by digest in the settings."""
