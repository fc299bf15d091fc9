"""The rooms of the stage `train`."""
