"""Stage `train`: the training loop, its checkpoints and its output."""
