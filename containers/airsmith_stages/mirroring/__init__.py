"""Copy a model or a dataset from the Hub or a store into an artifact, streamed and verified without a scratch disk."""
