"""Training on one GPU beside plain transformers with peft, and TRL; not run on a GPU yet."""
