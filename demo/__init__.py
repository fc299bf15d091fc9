"""Contents of `make demo`: a tiny base model, a dataset, and a local Hub that serves both."""

MODEL_ID = "airsmith/tiny-llama"
DATASET_ID = "airsmith/ticket-triage"
