"""What the training's arms have in common."""

STEPS, BATCH, LENGTH, VOCABULARY, SEED = 25, 4, 512, 32_000, 42
"""Optimizer steps, rows of each, tokens of each row, the model's vocabulary, and the seed of LoRA's matrices."""

LEARNING_RATE = 2e-4
