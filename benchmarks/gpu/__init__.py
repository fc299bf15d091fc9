"""Training on one GPU, compared with transformers and peft, and with TRL. Not yet run on a GPU."""
