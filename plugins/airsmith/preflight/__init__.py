"""Checks of a cluster that find what would stop a run, before any accelerator is requested."""
