"""Judging a model on held-out examples: loss and accuracy by token, and its own answers."""
