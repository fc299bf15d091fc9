"""Merge a LoRA adapter into its base model: tensor by tensor, from store to store, without torch."""

import os

# numpy reads it on import. The products are small, so that several threads would wait longer than they compute.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
