"""Parameters that all arms of the training benchmark share."""

STEPS, BATCH, LENGTH, VOCABULARY, SEED = 25, 4, 512, 32_000, 42
"""Optimizer steps, rows per step, tokens per row, the model's vocabulary size, and the seed of the LoRA matrices."""

LEARNING_RATE = 2e-4
