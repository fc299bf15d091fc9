"""Evaluate a model on held-out examples: loss, token accuracy and generated answers."""
