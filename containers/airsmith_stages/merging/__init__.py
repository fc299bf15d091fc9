"""A LoRA adapter merged into its base: tensor by tensor, from store to store, without torch."""

import os

# Read when numpy is loaded. The products are small: threads that share one cost more by waiting than they compute.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
