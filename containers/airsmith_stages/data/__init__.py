"""Convert a dataset's files to rows of tokens with a loss mask."""
